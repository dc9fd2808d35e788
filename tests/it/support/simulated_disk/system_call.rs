//! The system calls of a program as strace tells them.

use std::collections::HashMap;

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A string or a buffer, whole.
    Bytes(Vec<u8>),
    /// Anything else, as it was written.
    Text(String),
}

/// One call that returned.
#[derive(Clone, Debug)]
pub struct SystemCall {
    pub name: String,
    pub arguments: Vec<Argument>,
    /// Negative if it failed.
    pub result: i64,
}

impl SystemCall {
    /// An argument that is a string or a buffer.
    pub fn bytes(&self, index: usize) -> &[u8] {
        match &self.arguments[index] {
            Argument::Bytes(bytes) => bytes,
            Argument::Text(text) => panic!("{text} of {self:?} is no string"),
        }
    }

    /// An argument that is not.
    pub fn text(&self, index: usize) -> &str {
        match &self.arguments[index] {
            Argument::Text(text) => text,
            Argument::Bytes(_) => panic!("argument {index} of {self:?} is a string"),
        }
    }

    /// A number; octal ones begin with 0.
    pub fn number(&self, index: usize) -> i64 {
        let text = self.text(index);
        let parsed = match text.strip_prefix('0') {
            Some("") => Ok(0),
            Some(octal) if octal.starts_with('x') => i64::from_str_radix(&octal[1..], 16),
            Some(octal) => i64::from_str_radix(octal, 8),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|_| panic!("{text} of {self:?} is no number"))
    }
}

/// The two ends of a call.
#[derive(Clone, Debug)]
pub enum Moment {
    Began(SystemCall),
    Ended(SystemCall),
}

/// Reads what `strace -f -xx -o` wrote: the moments in their order. Calls that did not return are left out.
pub fn parse(output: &str) -> Vec<Moment> {
    // Where a call began, by thread, and what was told of it then.
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut moments: Vec<Option<Moment>> = Vec::new();
    for line in output.lines() {
        let (thread, told) = line.split_once(' ').unwrap_or_else(|| panic!("not understood: {line}"));
        let told = told.trim_start();
        if told.starts_with("+++") || told.starts_with("---") {
            continue;
        }
        if let Some(start) = told.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (moments.len(), start.trim_end().to_owned()));
            moments.push(None);
            continue;
        }
        let (began, whole) = match told.strip_prefix("<... ") {
            None => {
                moments.push(None);
                (moments.len() - 1, told.to_owned())
            }
            Some(rest) => {
                let (began, start) = unfinished.remove(thread).expect("what resumes was begun");
                (began, start + rest.split_once(" resumed>").unwrap().1)
            }
        };
        if let Some(call) = parse_call(&whole) {
            moments[began] = Some(Moment::Began(call.clone()));
            moments.push(Some(Moment::Ended(call)));
        }
    }
    moments.into_iter().flatten().collect()
}

fn parse_call(text: &str) -> Option<SystemCall> {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("not understood: {text}"));
    let (arguments, result) = rest.rsplit_once(") ").unwrap_or_else(|| panic!("not understood: {text}"));
    let result = result.trim_start().strip_prefix("= ").unwrap_or_else(|| panic!("not understood: {text}"));
    // The end of the process came first.
    let result = result.split(' ').next().filter(|result| *result != "?")?;
    let result = match result.strip_prefix("0x") {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).unwrap(),
        None => result.parse().unwrap(),
    };
    Some(SystemCall { name: name.to_owned(), arguments: parse_arguments(arguments), result })
}

fn parse_arguments(text: &str) -> Vec<Argument> {
    let mut arguments = Vec::new();
    let (mut depth, mut quoted, mut start) = (0, false, 0);
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'{' | b'[' | b'(' if !quoted => depth += 1,
            b'}' | b']' | b')' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                arguments.push(parse_argument(&text[start..place]));
                start = place + 1;
            }
            _ => {}
        }
    }
    arguments.push(parse_argument(&text[start..]));
    arguments
}

fn parse_argument(text: &str) -> Argument {
    let text = text.trim();
    match text.strip_prefix('"') {
        None => Argument::Text(text.to_owned()),
        Some(string) => {
            let string = string.strip_suffix('"').expect("strace was told to print whole strings");
            Argument::Bytes(unescape(string))
        }
    }
}

/// Strings look like `\x2f\x74`.
fn unescape(string: &str) -> Vec<u8> {
    string.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_several_threads_are_put_together() {
        let output = "7 openat(AT_FDCWD, \"\\x2f\\x61\", O_RDONLY|O_CLOEXEC) = 3\n\
                      7 fsync(3 <unfinished ...>\n\
                      8 write(4, \"\\x00\\x2c\\x22\", 3) = 3\n\
                      8 utimensat(3, \"\", [UTIME_OMIT, {tv_sec=1, tv_nsec=2}], 0) = 0\n\
                      8 --- SIGCHLD {} ---\n\
                      7 <... fsync resumed>)          = -1 EIO (Input/output error)\n\
                      7 exit_group(0) = ?\n\
                      7 +++ exited with 0 +++\n";
        let moments = parse(output);
        let told: Vec<_> = moments
            .iter()
            .map(|moment| match moment {
                Moment::Began(call) => format!("{}?", call.name),
                Moment::Ended(call) => format!("{}={}", call.name, call.result),
            })
            .collect();
        let expected = ["openat?", "openat=3", "fsync?", "write?", "write=3", "utimensat?", "utimensat=0", "fsync=-1"];
        assert_eq!(told, expected);
        let Moment::Ended(write) = &moments[4] else { panic!() };
        assert_eq!(write.bytes(1), b"\0,\"");
        assert_eq!((write.number(0), write.number(2)), (4, 3));
        let Moment::Ended(times) = &moments[6] else { panic!() };
        assert_eq!(times.text(2), "[UTIME_OMIT, {tv_sec=1, tv_nsec=2}]");
    }
}
