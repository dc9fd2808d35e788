//! `vecsnap completions SHELL`: the completion script, from the same definition as the arguments.

use clap::CommandFactory;

use super::arguments::{Arguments, CompletionsArguments};

/// The script that the shell is to load.
pub fn script(arguments: &CompletionsArguments) -> Vec<u8> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_completes_the_commands_and_their_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(&CompletionsArguments { shell })).unwrap();
            for word in ["restore", "confirm-service-stopped", "cleanup", "keep-daily"] {
                assert!(script.contains(word), "{shell} misses {word}");
            }
        }
    }
}
