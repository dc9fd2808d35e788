//! `vecsnap man [COMMAND]`: the manual page, from the same definition as the arguments.

use clap::CommandFactory;
use clap_mangen::Man;

use super::arguments::{Arguments, ManArguments};
use crate::error::{Error, Result};

/// The page in roff, of the whole tool or of one command.
///
/// # Errors
/// [`Error::Usage`] when there is no such command.
pub fn page(arguments: &ManArguments) -> Result<Vec<u8>> {
    let mut whole = Arguments::command();
    whole.build();
    let command = match &arguments.command {
        None => whole,
        Some(name) => {
            let unknown = || Error::Usage(format!("'{name}' is no command of vecsnap; see `vecsnap --help`"));
            whole.find_subcommand(name).cloned().ok_or_else(unknown)?
        }
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(Error::io("render", "the manual page"))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: Option<&str>) -> String {
        String::from_utf8(page(&ManArguments { command: command.map(str::to_owned) }).unwrap()).unwrap()
    }

    #[test]
    fn the_page_of_the_tool_names_its_commands_and_that_of_a_command_its_options() {
        assert!(text(None).contains("vecsnap\\-restore"));
        let restore = text(Some("restore"));
        assert!(restore.contains("confirm\\-service\\-stopped"), "{restore}");
        assert!(restore.contains(".TH vecsnap\\-restore 1") || restore.contains(".TH vecsnap-restore 1"), "{restore}");
    }

    #[test]
    fn an_unknown_command_is_a_usage_error() {
        assert!(matches!(page(&ManArguments { command: Some("undo".to_owned()) }), Err(Error::Usage(_))));
    }
}
