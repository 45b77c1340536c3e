use proptest::prelude::*;

use super::*;

fn canonical(target: &str) -> Result<String, AmbiguousPath> {
    CanonicalPath::parse("GET", target).map(|path| path.path().to_owned())
}

#[test]
fn gives_each_path_one_spelling() {
    for (target, path) in [
        ("/", "/"),
        ("/orders/1", "/orders/1"),
        ("/%61dmin", "/admin"),
        ("/%7Euser", "/~user"),
        ("/users/%40me", "/users/@me"),
        ("/a%2bb", "/a%2Bb"),
        ("/a+b", "/a+b"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a|b", "/a%7Cb"),
        ("/a%20b", "/a%20b"),
        ("//orders///1", "/orders/1"),
        ("/orders/", "/orders/"),
        ("/100%25", "/100%25"),
        ("/...", "/..."),
        ("/Admin", "/Admin"),
    ] {
        assert_eq!(canonical(target).as_deref(), Ok(path), "{target}");
    }
}

#[test]
fn refuses_what_has_several_readings() {
    use AmbiguousPath::*;
    for (target, reason) in [
        ("", NotAbsolute),
        ("orders", NotAbsolute),
        ("*", NotAbsolute),
        ("http://orders/1", NotAbsolute),
        ("?a=b", NotAbsolute),
        ("/a%2fb", EscapedSlash),
        ("/a%2Fb", EscapedSlash),
        ("/a\\b", Backslash),
        ("/a%5cb", Backslash),
        ("/a%00", Control),
        ("/a%0d%0aX:%20y", Control),
        ("/a%c2%85", Control),
        ("/a\0", RawCharacter),
        ("/a b", RawCharacter),
        ("/a\tb", RawCharacter),
        ("/é", RawCharacter),
        ("/a?b c", RawCharacter),
        ("/a%", Escape),
        ("/a%4", Escape),
        ("/a%4g", Escape),
        ("/a%%41", Escape),
        ("/%252e%252e/admin", DoubleEscape),
        ("/%25%32e", DoubleEscape),
        ("/%2525", DoubleEscape),
        ("/%c0%ae%c0%ae/admin", NotUtf8),
        ("/%ff", NotUtf8),
        ("/..;/admin", Parameter),
        ("/admin;x", Parameter),
        ("/..%3b/admin", Parameter),
        ("/a/../b", DotSegment),
        ("/a/..", DotSegment),
        ("/./b", DotSegment),
        ("/%2e%2E/b", DotSegment),
        ("/a/.%2e/b", DotSegment),
        ("/a#b", Fragment),
        ("/a?b#c", Fragment),
    ] {
        assert_eq!(canonical(target), Err(reason), "{target:?}");
    }
}

#[test]
fn asterisk_belongs_to_options_alone() {
    assert_eq!(CanonicalPath::parse("OPTIONS", "*").unwrap().path(), "*");
    assert_eq!(CanonicalPath::parse("OPTIONS", "*?a"), Err(AmbiguousPath::NotAbsolute));
    assert_eq!(CanonicalPath::parse("options", "*"), Err(AmbiguousPath::NotAbsolute));
}

#[test]
fn keeps_the_query_as_it_came() {
    let path = CanonicalPath::parse("GET", "//a?x=%2f..%00;&é=//").unwrap();
    assert_eq!((path.path(), path.query()), ("/a", Some("x=%2f..%00;&é=//")));
    assert_eq!(path.target(), "/a?x=%2f..%00;&é=//");
    assert!(path.was_rewritten());
    assert!(!CanonicalPath::parse("GET", "/a?").unwrap().was_rewritten());
    assert_eq!(CanonicalPath::parse("GET", "/a?").unwrap().target(), "/a?");
}

/// What docs/security-model.md says of each character, for every byte there is, escaped in either case.
#[test]
fn every_escape_is_refused_decoded_or_kept_in_capitals() {
    for byte in 0..=u8::MAX {
        let expected = match byte {
            b'/' => Err(AmbiguousPath::EscapedSlash),
            b'\\' => Err(AmbiguousPath::Backslash),
            b';' => Err(AmbiguousPath::Parameter),
            0..b' ' | 0x7f => Err(AmbiguousPath::Control),
            0x80.. => Err(AmbiguousPath::NotUtf8),
            b' ' | b'"' | b'#' | b'%' | b'+' | b'<' | b'>' | b'?' | b'[' | b']' | b'^' | b'`' | b'{'
            | b'|' | b'}' => Ok(format!("/a%{byte:02X}/z")),
            raw => Ok(format!("/a{}/z", char::from(raw))),
        };
        for target in [format!("/a%{byte:02x}/z"), format!("/a%{byte:02X}/z")] {
            assert_eq!(canonical(&target), expected, "{target}");
        }
    }
}

/// The same of what is not escaped.
#[test]
fn every_character_is_refused_kept_or_escaped() {
    for byte in 0..=0x7f_u8 {
        let target = format!("/a{}z", char::from(byte));
        let (path, is_whole) = match byte {
            0..=b' ' | 0x7f => (Err(AmbiguousPath::RawCharacter), true),
            b'#' => (Err(AmbiguousPath::Fragment), true),
            b'%' => (Err(AmbiguousPath::Escape), true),
            b';' => (Err(AmbiguousPath::Parameter), true),
            b'\\' => (Err(AmbiguousPath::Backslash), true),
            b'?' => (Ok("/a".to_owned()), false),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                (Ok(format!("/a%{byte:02X}z")), true)
            }
            _ => (Ok(target.clone()), true),
        };
        assert_eq!(canonical(&target), path, "{target:?}");
        let query =
            CanonicalPath::parse("GET", &target).ok().and_then(|path| path.query().map(str::to_owned));
        assert_eq!(query.is_none(), is_whole, "{target:?}");
    }
}

/// Slashes and dots in all their spellings, side by side: what is not merged is refused.
#[test]
fn no_spelling_of_slashes_and_dots_leads_anywhere_else() {
    let slashes = [
        "/",
        "//",
        "///",
        "%2f",
        "%2F",
        "\\",
        "%5c",
        "%252f",
        "%25%32%66",
        ";/",
        "/;/",
        "%c0%af",
        "%ef%bc%8f/",
        "%00/",
    ];
    let dots = [
        "..",
        ".",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "..;",
        "..%3b",
        "..%00",
        "%c0%ae%c0%ae",
        "...",
        "a",
    ];
    let (mut merged, mut refused) = (0, 0);
    for before in slashes {
        for dot in dots {
            for after in slashes {
                let target = format!("/public{before}{dot}{after}admin");
                let is_plain = |slash: &str| slash.bytes().all(|byte| byte == b'/');
                match canonical(&target) {
                    Err(_) => refused += 1,
                    Ok(path) => {
                        assert_single_reading(&path);
                        let is_harmless = matches!(dot, "..." | "a");
                        // Full-width letters are letters: in UTF-8, and no slash to anybody who reads it as such.
                        let is_wide = [before, after].contains(&"%ef%bc%8f/");
                        assert!(is_harmless || is_wide, "{target}: {path}");
                        if is_plain(before) && is_plain(after) {
                            assert_eq!(path, format!("/public/{dot}/admin"), "{target}");
                        }
                        assert!(path.starts_with("/public"), "{target}: {path}");
                        merged += 1;
                    }
                }
            }
        }
    }
    assert!(merged > 9 && refused > 1_000, "{merged} {refused}");
}

/// Against the paths that Istio tests its normalisation with: ours is refused, or is the same as theirs in the mode
/// nearest to ours (MergeSlashes), or is listed here with the reason.
#[test]
fn agrees_with_istio_or_refuses() {
    let Some(file) = crate::skipped::shared("vectors/path/istio-normalization.json") else { return };
    let vectors: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (mut same, mut refused, mut differs) = (0, 0, Vec::new());
    for mode in ["MergeSlashes", "NotNormalized", "Invalid", "PercentEncoded", "DecodeAndMergeSlashes"] {
        for case in vectors["modes"][mode].as_array().unwrap() {
            let input = case["in"].as_str().unwrap();
            match canonical(input) {
                Err(_) => refused += 1,
                Ok(ours) => {
                    assert_single_reading(&ours);
                    assert_eq!(canonical(&ours).as_deref(), Ok(&*ours));
                    if case["out"].as_str() == Some(&ours) {
                        same += 1;
                    } else {
                        differs.push((mode, input.to_owned(), case["out"].clone(), ours));
                    }
                }
            }
        }
    }
    println!("same {same}, refused {refused}, other spelling {}", differs.len());
    assert_eq!(same + refused + differs.len(), 16 + 23 + 1 + 255 + 18);
    for (mode, input, theirs, ours) in &differs {
        // The same characters in our one spelling: Istio leaves escapes as they come, we decode those that may stand
        // raw in a path, so that "/@" and "/%40" cannot be two paths for a policy and one for the server, and write
        // the others in upper case.
        let theirs = theirs.as_str().unwrap_or_default();
        assert_eq!(unescaped(theirs), unescaped(ours), "{mode}: {input}: theirs {theirs}, ours {ours}");
    }
}

fn unescaped(path: &str) -> Vec<u8> {
    let mut bytes = path.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || hex_value(bytes.next().unwrap()).unwrap();
        out.push(if byte == b'%' { digit() << 4 | digit() } else { byte });
    }
    out
}

/// Holds nothing that a server might decode, split or fold once more.
fn assert_single_reading(path: &str) {
    let lower = path.to_ascii_lowercase();
    for odd in ["//", "\\", ";", "#", "?", "%2f", "%5c", "%2e", "%3b", "%00", "/./", "/../"] {
        assert!(!lower.contains(odd), "{path} holds {odd}");
    }
    assert!(!lower.ends_with("/.") && !lower.ends_with("/.."), "{path}");
    assert!(path.bytes().all(|byte| stands_raw(byte) || byte == b'%'), "{path}");
}

proptest! {
    #[test]
    fn is_idempotent(target in "/(/|\\.|%2[0-9a-fA-F]|%[0-9a-f]{2}|[ -~]|é|\\?){0,12}") {
        if let Ok(once) = CanonicalPath::parse("GET", &target) {
            assert_single_reading(once.path());
            let target = once.target();
            let twice = CanonicalPath::parse("GET", &target).unwrap();
            prop_assert_eq!(twice.path(), once.path());
            prop_assert_eq!(twice.query(), once.query());
            prop_assert!(!twice.was_rewritten());
        }
    }

    #[test]
    fn never_panics(target in ".*") {
        let _ = CanonicalPath::parse("GET", &target);
    }
}

#[test]
fn escaped_slashes_stand_where_they_may_and_have_a_second_reading() {
    let keep = |target| CanonicalPath::parse_with("GET", target, EscapedSlashes::Keep);
    for (target, path, other) in [
        ("/repos/a%2fb/tree", "/repos/a%2Fb/tree", Some("/repos/a/b/tree")),
        ("/a%2Fb%2Fc?x=%2f", "/a%2Fb%2Fc", Some("/a/b/c")),
        ("/a%2F", "/a%2F", Some("/a/")),
        ("/a/b", "/a/b", None),
        ("//a/%62", "/a/b", None),
    ] {
        let parsed = keep(target).unwrap();
        assert_eq!(parsed.path(), path, "{target}");
        let read = parsed.with_slashes();
        assert_eq!(read.as_ref().map(|read| read.path()), other, "{target}");
        assert_eq!(CanonicalPath::parse_with("GET", path, EscapedSlashes::Keep).unwrap().path(), path);
    }
    use AmbiguousPath::{Backslash, Control, DotSegment, DoubleEscape, EscapedSlash, NotUtf8, Parameter};
    for (target, error) in [
        ("/public/..%2fadmin", DotSegment),
        ("/public%2f..%2fadmin", DotSegment),
        ("/public/%2e%2e%2fadmin", DotSegment),
        ("/.%2fadmin", DotSegment),
        ("/a%2f.", DotSegment),
        ("/%2fadmin", EscapedSlash),
        ("/a%2f/b", EscapedSlash),
        ("/a%2f%2fb", EscapedSlash),
        ("/a%252fb", DoubleEscape),
        ("/a%25%32fb", DoubleEscape),
        ("/a%5cb%2fc", Backslash),
        ("/a;%2fb", Parameter),
        ("/a%00%2fb", Control),
        ("/a%c0%af%2fb", NotUtf8),
    ] {
        assert_eq!(keep(target), Err(error), "{target}");
    }
    assert_eq!(CanonicalPath::parse("GET", "/a%2fb"), Err(EscapedSlash));
}
