//! How much work a pattern can make. To match one, Cedar tries what follows a wildcard at each place of the text in
//! turn, so that it looks at no more characters than the text has times the longest run that follows a wildcard;
//! however long policies and requests are, the product of both must stay small.

/// How many wildcards one pattern may have. Questions about all paths run it as an automaton, which they make wide.
pub(crate) const MAX_WILDCARDS: usize = 32;

/// How many characters may follow the wildcards of a statement's patterns: of each its longest run, with the wildcard
/// before it.
pub(crate) const MAX_FOLLOWING: usize = 1_024;

/// What a pattern can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PatternWork {
    pub(crate) wildcards: usize,
    /// The longest run after a wildcard, in characters, and the wildcard; nothing where there is none.
    pub(crate) following: usize,
}

impl PatternWork {
    /// Reads a pattern in its parts: literal text, or none for a wildcard. A run may come in several parts.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut work = Self::default();
        let mut run = 0;
        for part in parts {
            match part {
                None => {
                    work.wildcards += 1;
                    run = 1;
                }
                // What comes before the first wildcard is looked at once.
                Some(_) if work.wildcards == 0 => {}
                Some(literal) => run += literal.chars().count(),
            }
            work.following = work.following.max(run);
        }
        work
    }

    /// What is wrong with it by itself.
    pub(crate) fn problem(self) -> Option<String> {
        let Self { wildcards, .. } = self;
        (wildcards > MAX_WILDCARDS)
            .then(|| format!("a pattern has at most {MAX_WILDCARDS} wildcards, this one has {wildcards}"))
    }
}

/// What is wrong with so many characters that follow the wildcards of one statement's patterns.
pub(crate) fn following_problem(following: usize) -> Option<String> {
    (following > MAX_FOLLOWING).then(|| {
        format!(
            "at most {MAX_FOLLOWING} characters may follow the wildcards of a statement's patterns, here {following} do"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::CanonicalPath;
    use crate::pattern::PathPattern;
    use crate::template::PolicyTemplate;
    use crate::testing::{ask, domain, engine, name, parse, peer};

    /// The longest path that a request has: agents read no longer head than this.
    const LONGEST_PATH: usize = 16 * 1024;

    fn forbid(pattern: &str) -> String {
        // With something besides the path, Cedar itself is asked.
        format!(
            "forbid(principal, action == Action::\"GET\", resource) when {{ context.path like \"{pattern}\" && \
             context.time > datetime(\"2000-01-01\") }};"
        )
    }

    /// Matches as Cedar does, and counts the characters that are looked at.
    fn matched(pattern: &str, text: &str) -> (bool, usize) {
        let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        let (mut at, mut of, mut looked_at) = (0, 0, 0);
        let mut wildcard: Option<(usize, usize)> = None;
        while at < text.len() {
            looked_at += 1;
            match (pattern.get(of), &mut wildcard) {
                (Some('*'), last) => {
                    *last = Some((of, at));
                    of += 1;
                }
                (Some(own), _) if *own == text[at] => (at, of) = (at + 1, of + 1),
                (_, Some((place, from))) => {
                    *from += 1;
                    (at, of) = (*from, *place + 1);
                }
                _ => return (false, looked_at),
            }
        }
        (pattern[of..].iter().all(|char| *char == '*'), looked_at)
    }

    /// The worst that are let through: none of them is found, and each is nearly found everywhere.
    fn worst() -> Vec<String> {
        let run = |length: usize| "a".repeat(length);
        vec![
            format!("*{}b", run(MAX_FOLLOWING - 2)),
            format!("/{}*{}b", run(20_000), run(MAX_FOLLOWING - 2)),
            format!("{}{}b", "*a".repeat(MAX_WILDCARDS - 1), format_args!("*{}", run(MAX_FOLLOWING - 2))),
            format!("{}b", format!("*{}", run(MAX_FOLLOWING / 2)).repeat(MAX_WILDCARDS / 2)),
            "*a".repeat(MAX_WILDCARDS) + "b",
        ]
    }

    #[test]
    fn the_most_that_a_pattern_makes_is_bounded_whatever_the_path() {
        let path = format!("/{}", "a".repeat(LONGEST_PATH - 1));
        for pattern in worst() {
            let (is_matched, looked_at) = matched(&pattern, &path);
            let most = LONGEST_PATH * MAX_FOLLOWING + pattern.len();
            assert!(looked_at <= most, "{looked_at} of {most}: {}", &pattern[..20]);
            let engine = engine(&["permit(principal is Node, action, resource);", &forbid(&pattern)]);
            let decision = ask(&engine, &peer("web"), 8080, "GET", &path);
            assert_eq!(decision.is_allowed(), !is_matched, "{}", &pattern[..20]);
        }
    }

    #[test]
    fn a_pattern_that_would_make_more_is_refused_by_name() {
        let refused = |pattern: &str| {
            let problems = parse(&forbid(pattern)).unwrap_err();
            assert!(problems[0].help.is_some() && problems[0].line == 1, "{problems:?}");
            problems[0].message.clone()
        };
        let many = "*a".repeat(MAX_WILDCARDS + 1);
        let told = "like: a pattern has at most 32 wildcards, this one has 33";
        assert_eq!(refused(&many), told);
        assert_eq!(refused(&"*".repeat(10_000)), told.replace("33", "10000"));
        let told =
            "like: at most 1024 characters may follow the wildcards of a statement's patterns, here 1025 do";
        let long = format!("*{}", "a".repeat(MAX_FOLLOWING));
        assert_eq!(refused(&long), told);
        // Several of one statement have no more in all; those of several statements do.
        let half = format!("*{}", "a".repeat(MAX_FOLLOWING / 2 - 1));
        let of_two = format!(
            "forbid(principal, action in Action::\"http\", resource) when {{ context.path like \"{half}\" || context.host like \"{half}*a\" }};"
        );
        assert!(parse(&of_two).is_ok(), "{:?}", parse(&of_two));
        assert_eq!(
            parse(&of_two.replace("*a\"", "*a\" || context.path like \"*\"")).unwrap_err()[0].message,
            told
        );
        assert!(parse(&format!("{}\n{}", forbid(&half), forbid(&format!("/{}", &long[1..])))).is_ok());
        let template = forbid(&many).replace("principal,", "principal == ?principal,");
        let problems = PolicyTemplate::parse(name("shop"), &domain(), &template).unwrap_err();
        assert!(problems[0].message.contains("at most 32 wildcards"), "{problems:?}");
    }

    #[test]
    fn only_what_cedar_is_asked_about_is_counted() {
        let following = |text: &str| -> Vec<usize> {
            parse(text).unwrap().following().map(|(_, following)| following).collect()
        };
        let on = |condition: &str| {
            format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
        };
        assert_eq!(following(&on("context.path like \"*/abc\"")), [0; 0], "path and method alone tell");
        assert_eq!(following(&on("context.host like \"*.abc\"")), [5]);
        assert_eq!(following(&on("context.path like \"*/abc\" && context.host like \"a*b\"")), [7]);
        assert_eq!(following(&on("context.host == \"a.example\"")), [0; 0]);
    }

    #[test]
    fn questions_about_paths_are_bounded_too() {
        assert!(PathPattern::parse(&"*a".repeat(MAX_WILDCARDS)).is_ok());
        let error = PathPattern::parse(&"*a".repeat(MAX_WILDCARDS + 1)).unwrap_err();
        assert!(error.to_string().contains("at most 32 wildcards, this one has 33"), "{error}");
        let error = PathPattern::parse(&format!("/*{}", "a".repeat(MAX_FOLLOWING))).unwrap_err();
        assert!(error.to_string().contains("at most 1024 characters may follow"), "{error}");
        // What is no pattern may be as long as any path.
        let path = format!("/{}", "a".repeat(LONGEST_PATH - 1));
        assert!(PathPattern::parse(&path).is_ok() && CanonicalPath::parse("GET", &path).is_ok());
    }
}
