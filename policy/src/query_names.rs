//! Names in a query that servers take for each other: PHP makes `_` of `.`, of a space and of a bracket that is not
//! closed, and like many others an array of `name[]`; `[name]` is `name` to some, ASP.NET passes over case, and binders
//! of fields over `-` and `_`; to some `!name` is what `name` is where it is not said.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

/// The names that a statement asks a query for.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct QueryNames {
    written: BTreeSet<Box<str>>,
    /// It asks for names that are not written out, too.
    any: bool,
}

impl QueryNames {
    pub(crate) fn ask_for(&mut self, name: &str) {
        self.written.insert(name.into());
    }

    pub(crate) fn ask_for_any(&mut self) {
        self.any = true;
    }

    /// Whether servers may read a name in a query as one that is asked for, and is another. `pairs` are sorted.
    pub(crate) fn are_spelled_otherwise(&self, pairs: &[(Cow<'_, str>, Cow<'_, str>)]) -> bool {
        let found = || pairs.chunk_by(|(one, _), (next, _)| one == next).filter_map(<[_]>::first);
        let is_other = |name: &str| self.written.iter().any(|asked| is_other_spelling(name, asked));
        // Where it is not known which names are asked for, those that are there must differ from each other.
        let mut seen = BTreeSet::new();
        let mut is_seen = |name: &str| name.contains(BRACKETS) || !seen.insert(cut(name).collect::<String>());
        found().any(|(name, _)| is_other(name)) || self.any && found().any(|(name, _)| is_seen(name))
    }
}

impl fmt::Debug for QueryNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any { f.write_str("any") } else { fmt::Debug::fmt(&self.written, f) }
    }
}

const BRACKETS: [char; 2] = ['[', ']'];

fn is_other_spelling(found: &str, asked: &str) -> bool {
    found != asked && (cut(found).eq(cut(asked)) || flat(found).eq(flat(asked)))
}

/// A name up to its brackets.
fn cut(name: &str) -> impl Iterator<Item = char> {
    let name = begun(name);
    name.split(BRACKETS).next().unwrap_or_default().trim_end().chars().flat_map(folded)
}

/// A name with its brackets as letters of it.
fn flat(name: &str) -> impl Iterator<Item = char> {
    begun(name).chars().flat_map(folded)
}

fn begun(name: &str) -> &str {
    name.trim_start_matches(|char: char| char.is_whitespace() || char == '!' || BRACKETS.contains(&char))
}

fn folded(char: char) -> impl Iterator<Item = char> {
    let is_alike = matches!(char, '.' | '-' | '[' | ']') || char.is_whitespace();
    let char = if is_alike { '_' } else { char };
    // Some letters have a lower case in common with others only by their upper case.
    char.to_uppercase().flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::parse_query;

    fn is_spelled_otherwise(names: &QueryNames, query: &str) -> bool {
        let mut pairs = parse_query(query).unwrap();
        pairs.sort();
        names.are_spelled_otherwise(&pairs)
    }

    #[test]
    fn a_name_that_servers_take_for_one_that_is_asked_for_is_another_spelling() {
        let mut names = QueryNames::default();
        names.ask_for("view");
        names.ask_for("user_id");
        for (query, expected) in [
            ("", false),
            ("view=public&view=private&user_id=1", false),
            ("a=1&viewer=1&views[]=2&userid=1&user__id=1", false),
            ("view=public&view[]=private", true),
            ("view%5B%5D=private", true),
            ("view[0]=private", true),
            ("view[a][b]=private", true),
            ("[view]=private", true),
            ("!view=private", true),
            ("View=private", true),
            ("+view=private", true),
            ("view+=private", true),
            ("user.id=1", true),
            ("user-id=1", true),
            ("user+id=1", true),
            ("user[id=1", true),
            ("USER_ID=1", true),
            ("u%C5%BFer_id=1", true),
        ] {
            assert_eq!(is_spelled_otherwise(&names, query), expected, "{query}");
        }
        let mut of_arrays = QueryNames::default();
        of_arrays.ask_for("view[]");
        assert!(!is_spelled_otherwise(&of_arrays, "view[]=1&view[]=2"));
        assert!(is_spelled_otherwise(&of_arrays, "view=1"));
    }

    #[test]
    fn where_any_name_may_be_asked_for_none_is_there_in_two_spellings() {
        let mut names = QueryNames::default();
        names.ask_for_any();
        for (query, expected) in
            [("a=1&a=2&b=3&View=1", false), ("a=1&A=2", true), ("a.b=1&c=1&a_b=2", true), ("a[]=1", true)]
        {
            assert_eq!(is_spelled_otherwise(&names, query), expected, "{query}");
        }
    }
}
