//! How the demo looks: plain text, few colours, none where they are not wanted.

use std::io::IsTerminal as _;

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Dim,
    Title,
    Good,
    Bad,
    Notice,
}

/// A line that somebody wants to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

impl Line {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }
}

/// Standard output, with colours if it is a terminal and `NO_COLOR` is not set.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
}

impl Screen {
    pub(crate) fn detect() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: std::io::stdout().is_terminal() && !refused }
    }

    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Dim => "2",
            Tone::Title => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Notice => "33",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn say(&self, line: &Line) {
        println!("{}", self.paint(line.tone, &line.text));
    }

    /// The title of a part of the story.
    pub(crate) fn act(&self, number: u32, title: &str) {
        println!("\n{}", self.paint(Tone::Title, &format!("{number}  {title}")));
    }

    /// A command as a user would type it.
    pub(crate) fn command(&self, command: &str) {
        println!("{}", self.paint(Tone::Dim, &format!("   $ {command}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        assert_eq!(Screen { colours: false }.paint(Tone::Bad, "lost"), "lost");
        assert_eq!(Screen { colours: true }.paint(Tone::Bad, "lost"), "\x1b[31mlost\x1b[0m");
        assert_eq!(Screen { colours: true }.paint(Tone::Plain, "lost"), "lost");
    }
}
