//! Where each statement of a Cedar text begins and ends, and how deep it nests.

/// One statement's place in its document, in bytes, and its size in the measure that bounds recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Operators and opening brackets: no syntax tree of the statement is deeper than about this.
    pub(crate) operators: usize,
}

/// Splits at the semicolons that stand outside strings and comments; in Cedar each of them ends a statement. What
/// follows the last one is a statement too, unless it is empty.
pub(crate) fn extents(text: &str) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut current: Option<Extent> = None;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'/' && bytes.peek().is_some_and(|(_, next)| *next == b'/') {
            while bytes.next_if(|(_, byte)| *byte != b'\n').is_some() {}
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let extent = current.get_or_insert(Extent { start: at, end: at, operators: 0 });
        extent.end = at + 1;
        match byte {
            b'"' => {
                while let Some((at, byte)) = bytes.next() {
                    extent.end = at + 1;
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b';' => extents.extend(current.take()),
            b'(' | b'[' | b'{' | b'.' | b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'<' | b'>' | b'=' => {
                extent.operators += 1;
            }
            // `if`, `in`, `is`, `has`, `like` nest no deeper than the brackets and operators around them, but
            // `if a then b else if …` does.
            b'f' if text.get(at.saturating_sub(1)..=at) == Some("if") => extent.operators += 1,
            _ => {}
        }
    }
    extents.extend(current);
    extents
}

/// The one-based line and column, the latter in characters, of a byte of `text`.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.char_indices().take_while(|(index, char)| index + char.len_utf8() <= at);
    before.fold(
        (1, 1),
        |(line, column), (_, char)| if char == '\n' { (line + 1, 1) } else { (line, column + 1) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_outside_strings_and_comments() {
        let text = "// a; b\npermit(x) when { y == \";\\\";\" };  // c;\n forbid(z)";
        let parts: Vec<_> = extents(text).iter().map(|extent| &text[extent.start..extent.end]).collect();
        assert_eq!(parts, ["permit(x) when { y == \";\\\";\" };", "forbid(z)"]);
        assert_eq!(extents(" // nothing\n"), []);
        assert_eq!(extents("\"open").len(), 1);
        assert_eq!(extents("\"open\\").len(), 1);
    }

    #[test]
    fn counts_lines_and_characters() {
        assert_eq!(line_and_column("é\nàb", 0), (1, 1));
        assert_eq!(line_and_column("é\nàb", 5), (2, 2));
        assert_eq!(line_and_column("é", 99), (1, 2));
    }
}
