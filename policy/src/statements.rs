//! Where each statement of a Cedar text begins and ends, and how deep it nests.

/// One statement's place in its document, in bytes, and the measures that bound recursion over its syntax tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// How many operators it has: a chain of them nests as deep as it is long.
    pub(crate) operators: usize,
    /// No less than its brackets, choices and accesses nest: the most open brackets, all `if`s, and the most dots in
    /// one operand.
    pub(crate) depth: usize,
}

/// Splits at the semicolons that stand outside strings and comments; in Cedar each of them ends a statement. What
/// follows the last one is a statement too, unless it is empty.
pub(crate) fn extents(text: &str) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut current: Option<Nesting> = None;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'/' && bytes.peek().is_some_and(|(_, next)| *next == b'/') {
            while bytes.next_if(|(_, byte)| *byte != b'\n').is_some() {}
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let nesting = current.get_or_insert_with(|| Nesting { start: at, ..Nesting::default() });
        nesting.end = at + 1;
        match byte {
            b'"' => {
                while let Some((at, byte)) = bytes.next() {
                    nesting.end = at + 1;
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b';' => extents.extend(current.take().map(Nesting::extent)),
            b'f' if text.get(at.saturating_sub(1)..=at) == Some("if") => nesting.choices += 1,
            byte => nesting.count(byte),
        }
    }
    extents.extend(current.map(Nesting::extent));
    extents
}

/// A statement that is being read.
#[derive(Default)]
struct Nesting {
    start: usize,
    end: usize,
    operators: usize,
    choices: usize,
    open: usize,
    most_open: usize,
    dots: usize,
    most_dots: usize,
}

impl Nesting {
    fn count(&mut self, byte: u8) {
        match byte {
            b'(' | b'[' | b'{' => {
                self.open += 1;
                self.most_open = self.most_open.max(self.open);
            }
            b')' | b']' | b'}' => self.open = self.open.saturating_sub(1),
            b'.' => {
                self.dots += 1;
                self.most_dots = self.most_dots.max(self.dots);
            }
            // Both characters of "&&" and "||" count.
            b'&' | b'|' | b'+' | b'-' | b'*' | b'!' => {
                self.operators += 1;
                self.dots = 0;
            }
            b',' => self.dots = 0,
            _ => {}
        }
    }

    fn extent(self) -> Extent {
        let depth = self.most_open + self.choices + self.most_dots;
        Extent { start: self.start, end: self.end, operators: self.operators, depth }
    }
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
    fn measures_what_nests() {
        let measure = |text: &str| (extents(text)[0].operators, extents(text)[0].depth);
        assert_eq!(measure("((a)) && (b.c || \"&& .\" == d.e);"), (4, 3));
        assert_eq!(measure("a.b.c.d, e.f;"), (0, 3));
        assert_eq!(measure("if a then b else if c then -d else e"), (1, 2));
    }

    #[test]
    fn counts_lines_and_characters() {
        assert_eq!(line_and_column("é\nàb", 0), (1, 1));
        assert_eq!(line_and_column("é\nàb", 5), (2, 2));
        assert_eq!(line_and_column("é", 99), (1, 2));
    }
}
