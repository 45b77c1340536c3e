use std::cmp::Ordering::{Equal, Less};

use proptest::prelude::*;

use super::*;
use crate::path_set::{PathSet, Relation};

fn matches(template: &str, method: &str, path: &str) -> bool {
    RouteTemplate::parse(template).unwrap().matches(method, &CanonicalPath::parse("GET", path).unwrap())
}

#[test]
fn matches_by_segments() {
    for (template, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/orders/{id}", "/orders/1", true),
        ("/orders/{id}", "/orders/", false),
        ("/orders/{id}", "/orders", false),
        ("/orders/{id}", "/orders/1/2", false),
        ("/orders/*", "/orders/", true),
        ("/orders/*", "/orders/1/2", true),
        ("/orders/*", "/orders", false),
        ("/orders/*", "/ordersx", false),
        ("/{all...}", "/a/b", true),
        ("/orders/", "/orders/", true),
        ("/orders/", "/orders", false),
        ("/{a}/b", "/x/b", true),
        ("shop.Orders/Get", "/shop.Orders/Get", true),
        ("shop.Orders/*", "/shop.Orders/Get", true),
        ("shop.Orders/Get", "/shop.Orders/Put", false),
        ("/files/{name}.json", "/files/a.json", true),
        ("/files/{name}.json", "/files/a.json.json", true),
        ("/files/{name}.json", "/files/.json", false),
        ("/files/{name}.json", "/files/a.jso", false),
        ("/files/{name}.json", "/files/a/b.json", false),
        ("/v{version}/a", "/v2/a", true),
        ("/v{version}/a", "/v/a", false),
        ("/v1/{name}:cancel", "/v1/a:b:cancel", true),
        ("/v1/{name}:cancel", "/v1/a:cancelled", false),
        ("/{base}...{head}", "/main...topic", true),
        ("/{base}...{head}", "/main..topic", false),
        ("/{base}...{head}", "/....", false),
        ("/{base}...{head}", "/.....", true),
        ("/({a},{b})", "/(1,2)", true),
        ("/({a},{b})", "/(1,)", false),
        ("/aba{x}aba", "/abaaba", false),
        ("/aba{x}aba", "/ababa", false),
        ("/aba{x}aba", "/aba-aba", true),
        ("/{a}0", "/x%20", false),
        ("/{a}0", "/x%200", true),
        ("/{a}20{b}", "/x%2020", false),
        ("/{a}20{b}", "/%2020y", true),
        ("/{a}%20{b}", "/x%20y", true),
    ] {
        assert_eq!(matches(template, "GET", path), expected, "{template} {path}");
    }
    assert!(matches("GET,HEAD /a", "HEAD", "/a"));
    assert!(!matches("GET,HEAD /a", "get", "/a"));
    assert!(matches("GET,POST /a", "HEAD", "/a"), "it is answered as GET is");
    assert!(!matches("POST /a", "HEAD", "/a"));
}

#[test]
fn parameters_are_decoded_segment_by_segment() {
    for (template, path, expected) in [
        ("/orders/{id}", "/orders/a%20b+c", "id=a b+c"),
        ("/{a}/x/{b}", "/1/x/2", "a=1 b=2"),
        ("/files/{rest...}", "/files/a/b%25", "rest=a/b%"),
        ("/files/{rest...}", "/files/", "rest="),
        ("/files/*", "/files/a", ""),
        ("/a", "/a", ""),
        ("/{x}/files/{name}.{kind}", "/1/files/a.tar.gz", "x=1 name=a kind=tar.gz"),
        ("/{a}-{b}-{c}", "/-----", "a=- b=- c=-"),
        ("/{a}-{b}", "/a%20b-c%2Dd-e", "a=a b b=c-d-e"),
        ("/{a}0{b}", "/x%2000", "a=x  b=0"),
        ("/v{version}/x", "/v%C3%A4/x", "version=ä"),
        ("/{base}...{head}", "/a....b", "base=a head=.b"),
    ] {
        let template = RouteTemplate::parse(template).unwrap();
        let path = CanonicalPath::parse("GET", path).unwrap();
        assert!(template.matches("GET", &path));
        let found = template.parameters(&path).into_iter().map(|(name, value)| format!("{name}={value}"));
        assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{template}");
    }
    for template in ["/{a}/{a}", "/{a}-{a}", "/x{a}/{a...}"] {
        let error = RouteTemplate::parse(template).unwrap_err();
        assert_eq!(error, RouteTemplateError::DuplicateParameter("a".to_owned()));
    }
}

#[test]
fn refuses_what_could_never_match() {
    for template in [
        "",
        "orders",
        "a/b/c",
        "a/{b}",
        "get /a",
        "GET, /a",
        "/a/*/b",
        "/{a...}/b",
        "/{a}{b}",
        "/x{a}{b}y",
        "/x{a...}",
        "/{a}-{b...}",
        "/{a...}.json",
        "/{a",
        "/a}",
        "/{a}}",
        "/{{a}}",
        "/}{a}",
        "/{a}/b{",
        "/{a}*",
        "/{a};x",
        "/{a}%2",
        "/%{a}",
        "/{a}%2d",
        "/{a}%C3",
        "/{a}?b",
        "shop.Orders/Get{a}",
        "shop.{a}s/Get",
        "/{}",
        "/{a b}",
        "//",
        "/a//b",
        "/%61",
        "/a;b",
        "/..",
        "/a?b",
        "/é",
        "/a*",
        "/a b",
        "GET a/b",
        "/a%2f",
    ] {
        assert!(RouteTemplate::parse(template).is_err(), "{template:?}");
    }
}

#[test]
fn the_more_specific_comes_first() {
    let order = [
        "/a/b/*",
        "GET /a/b",
        "/a/b",
        "/a/x.{y}.json",
        "/a/{x}.json",
        "/a/{x}:y",
        "/a/{x}/c",
        "/a/{x}",
        "/a/*",
        "/{x}/b",
        "/{x...}",
    ];
    let mut sorted: Vec<_> = order.iter().rev().map(|text| RouteTemplate::parse(text).unwrap()).collect();
    sorted.sort_by(RouteTemplate::by_specificity);
    assert_eq!(sorted.iter().map(RouteTemplate::as_str).collect::<Vec<_>>(), order);
    for (path, winner) in [
        ("/a/b", "GET /a/b"),
        ("/a/x", "/a/{x}"),
        ("/a/x/d", "/a/*"),
        ("/c/b", "/{x}/b"),
        ("/c", "/{x...}"),
        ("/a/x.json", "/a/{x}.json"),
        ("/a/x.y.json", "/a/x.{y}.json"),
        ("/a/x.y:y", "/a/{x}:y"),
        ("/a/x:y/d", "/a/*"),
    ] {
        let path = CanonicalPath::parse("GET", path).unwrap();
        assert_eq!(sorted.iter().find(|t| t.matches("GET", &path)).unwrap().as_str(), winner);
    }
}

#[test]
fn head_goes_where_get_does_unless_it_is_listed() {
    let templates = ["GET /card", "/card", "GET /a/{id}", "HEAD /a/*", "GET /b", "PUT,HEAD /b", "/*"];
    let templates = templates.map(|text| RouteTemplate::parse(text).unwrap());
    let table = RouteTable::new(templates.into_iter().zip(0..).collect());
    for (path, method, expected) in [
        ("/card", "GET", "GET /card"),
        ("/card", "HEAD", "GET /card"),
        ("/card", "POST", "/card"),
        ("/a/1", "HEAD", "GET /a/{id}"),
        ("/a/1/2", "HEAD", "HEAD /a/*"),
        ("/b", "GET", "GET /b"),
        ("/b", "HEAD", "PUT,HEAD /b"),
        ("/c", "HEAD", "/*"),
    ] {
        let path = CanonicalPath::parse("GET", path).unwrap();
        assert_eq!(table.find(method, &path).unwrap().0.as_str(), expected, "{method} {path}");
    }
}

#[test]
fn collides_only_where_a_request_would_belong_to_both() {
    let collide = |a, b| RouteTemplate::parse(a).unwrap().collides_with(&RouteTemplate::parse(b).unwrap());
    assert!(collide("/a/{x}", "/a/{y}"));
    assert!(collide("GET /a", "GET,PUT /a"));
    assert!(!collide("GET /a", "PUT /a"));
    assert!(!collide("GET /a", "HEAD /a") && !collide("GET /a", "PUT,HEAD /a"));
    assert!(collide("GET,HEAD /a", "GET /a"), "they are not alike in order");
    assert!(!collide("GET /a", "/a"));
    assert!(!collide("/a/{x}", "/a/*"));
    assert!(collide("/a/{x}.{y}", "/a/{name}.{kind}"));
    assert!(!collide("/a/{x}.y", "/a/y.{x}"), "one comes first, whichever");
    assert!(!collide("/a/{x}.y", "/a/{x}"));
}

/// What templates are by another reckoning: one thing after the other, each tried in every way.
mod slowly {
    /// A character, or an escape, which is one; or any one of them, or any number.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(super) enum Token {
        Is(&'static str),
        One,
        Many,
    }

    /// What canonical paths are made of in these tests: also what escapes have in common with other text.
    pub(super) const UNITS: [&str; 7] = ["a", "-", ".", "0", "2", "%20", "%C3%A4"];

    pub(super) fn matches(pattern: &[Token], units: &[&str]) -> bool {
        match (pattern, units) {
            ([], []) => true,
            ([Token::Many, then @ ..], _) if matches(then, units) => true,
            ([Token::Many, ..], [_, left @ ..]) => matches(pattern, left),
            ([Token::One, then @ ..], [_, left @ ..]) => matches(then, left),
            ([Token::Is(own), then @ ..], [unit, left @ ..]) => own == unit && matches(then, left),
            _ => false,
        }
    }

    /// The values of parameters, of all ways the one with the shortest first one, then second one and so on.
    pub(super) fn values(pattern: &[Token], units: &[&str]) -> Option<Vec<String>> {
        match (pattern, units) {
            ([], []) => Some(Vec::new()),
            ([Token::One, Token::Many, then @ ..], _) => (1..=units.len()).find_map(|length| {
                let (value, left) = units.split_at(length);
                let others = values(then, left)?;
                Some([value.concat()].into_iter().chain(others).collect())
            }),
            ([Token::Is(own), then @ ..], [unit, left @ ..]) if own == unit => values(then, left),
            _ => None,
        }
    }

    pub(super) fn may_meet(one: &[Token], other: &[Token]) -> bool {
        use Token::{Is, Many};
        match (one, other) {
            ([], []) => true,
            ([Many, then @ ..], _) if may_meet(then, other) => true,
            (_, [Many, then @ ..]) if may_meet(one, then) => true,
            ([Many, ..], [Many, ..]) | ([], _) | (_, []) => false,
            ([Is(unit), ..], [Is(other_unit), ..]) if unit != other_unit => false,
            ([token, then @ ..], [other_token, other_then @ ..]) => {
                let one = if *token == Many { one } else { then };
                may_meet(one, if *other_token == Many { other } else { other_then })
            }
        }
    }
}

/// A segment of a template by parts: none is a parameter.
fn text_of(segment: &[Option<&'static str>]) -> String {
    let parts = segment.iter().enumerate();
    parts.map(|(at, part)| part.map_or_else(|| format!("{{p{at}}}"), str::to_owned)).collect()
}

fn tokens_of(segment: &[Option<&'static str>]) -> Vec<slowly::Token> {
    let tokens = |part: &Option<&'static str>| match part {
        Some(unit) => vec![slowly::Token::Is(unit)],
        None => vec![slowly::Token::One, slowly::Token::Many],
    };
    segment.iter().flat_map(tokens).collect()
}

fn unit() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&slowly::UNITS[..])
}

/// Without what no template may have: two parameters side by side, or a dot segment.
fn segment() -> impl Strategy<Value = Vec<Option<&'static str>>> {
    prop::collection::vec(prop_oneof![2 => Just(None), 3 => unit().prop_map(Some)], 1..7).prop_map(
        |mut parts| {
            parts.dedup_by(|part, before| part.is_none() && before.is_none());
            if parts.iter().all(|part| *part == Some(".")) {
                parts.push(None);
            }
            parts
        },
    )
}

/// Segments of paths that are likely to match: a template's own text with something for each of its parameters.
fn filled() -> impl Strategy<Value = (Vec<Option<&'static str>>, Vec<&'static str>)> {
    let fillings = prop::collection::vec(prop::collection::vec(unit(), 0..4), 7);
    (segment(), fillings).prop_map(|(segment, fillings)| {
        let parts = segment.iter().zip(fillings);
        let units = parts.flat_map(|(part, filling)| part.map_or(filling, |unit| vec![unit])).collect();
        (segment, units)
    })
}

fn is_dots(units: &[&str]) -> bool {
    matches!(units, [] | ["."] | [".", "."])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn text_around_parameters_matches_as_it_does_by_trying_everything(
        (segment, units) in filled(),
        (other, _) in filled(),
        strange in prop::collection::vec(unit(), 1..8),
    ) {
        let template = RouteTemplate::parse(&format!("/x/{}/y", text_of(&segment))).unwrap();
        for units in [&units, &strange].into_iter().filter(|units| !is_dots(units)) {
            let text = format!("/x/{}/y", units.concat());
            let path = CanonicalPath::parse("GET", &text).unwrap();
            prop_assert!(!path.was_rewritten());
            let expected = slowly::values(&tokens_of(&segment), units);
            prop_assert_eq!(expected.is_some(), slowly::matches(&tokens_of(&segment), units));
            prop_assert_eq!(template.matches("GET", &path), expected.is_some(), "{} {}", template, text);
            let alone = PathSet::new(vec![Glob::literally(&text)], []);
            let relation = if expected.is_some() { Relation::Whole } else { Relation::None };
            prop_assert_eq!(alone.relation(&template.glob()), relation, "{} {}", template, text);
            if let Some(expected) = expected {
                let found = template.parameters(&path).into_iter().map(|(_, value)| value.into_owned());
                let expected = expected.iter().map(|value| decode(value, false).unwrap().into_owned());
                prop_assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            }
        }
        let rest = RouteTemplate::parse(&format!("/x/{}", text_of(&other))).unwrap();
        prop_assert!(!template.may_meet(&rest));
    }

    #[test]
    fn templates_lie_to_one_another_as_they_do_by_trying_everything(one in segment(), other in segment()) {
        let parse = |segment: &[Option<&'static str>]| {
            RouteTemplate::parse(&format!("/{}", text_of(segment))).unwrap()
        };
        let (template, other_template) = (parse(&one), parse(&other));
        let meet = slowly::may_meet(&tokens_of(&one), &tokens_of(&other));
        prop_assert_eq!(template.may_meet(&other_template), meet, "{} {}", template, other_template);
        prop_assert_eq!(other_template.may_meet(&template), meet);
        let common = PathSet::new(vec![template.glob(), other_template.glob()], []);
        prop_assert_eq!(!common.is_empty(), meet, "{} {}", template, other_template);

        let order = template.by_specificity(&other_template);
        prop_assert_eq!(order.reverse(), other_template.by_specificity(&template));
        prop_assert_eq!(order == Equal, template.is_of_same_paths(&other_template));
        // What matches less comes first.
        let is_within = PathSet::new(vec![template.glob()], []).relation(&other_template.glob()) == Relation::Whole;
        let is_around = PathSet::new(vec![other_template.glob()], []).relation(&template.glob()) == Relation::Whole;
        prop_assert_eq!(is_within && is_around, order == Equal, "{} {}", template, other_template);
        if is_within && !is_around {
            prop_assert_eq!(order, Less, "{} {}", template, other_template);
        }
    }

    #[test]
    fn of_whole_templates_the_table_finds_the_most_specific(
        templates in prop::collection::vec(prop::collection::vec(segment(), 1..3), 1..12),
        path in prop::collection::vec(filled(), 1..3),
    ) {
        let texts = templates.iter().map(|segments| {
            segments.iter().map(|segment| format!("/{}", text_of(segment).replace("{p", "{q"))).collect::<Vec<_>>()
        });
        // Names of parameters are of their segment.
        let texts = texts.map(|segments| {
            let named = segments.iter().enumerate().map(|(at, text)| text.replace("{q", &format!("{{s{at}_")));
            named.collect::<String>()
        });
        let routes = texts.map(|text| RouteTemplate::parse(&text).unwrap()).zip(0..).collect();
        let table = RouteTable::new(routes);
        prop_assert!(table.is_sorted_by(|(one, _), (other, _)| one.by_specificity(other).is_le()));
        prop_assume!(path.iter().all(|(_, units)| !is_dots(units)));
        let text: String = path.iter().map(|(_, units)| format!("/{}", units.concat())).collect();
        let path = CanonicalPath::parse("GET", &text).unwrap();
        let slowly = table.iter().find(|(template, _)| template.matches("GET", &path));
        prop_assert_eq!(table.find("GET", &path), slowly, "{}", text);
    }

    #[test]
    fn of_many_alike_the_table_finds_the_most_specific(
        templates in prop::collection::vec(many_alike(), 1..32),
        path in prop::collection::vec(prop::sample::select(&["a", "b", "ab", "a.b", "c", "cc"][..]), 0..7),
        ends_with_slash in any::<bool>(),
    ) {
        let parse = |text: &String| RouteTemplate::parse(text).unwrap();
        let table = RouteTable::new(templates.iter().map(parse).zip(0..).collect());
        let end = if ends_with_slash || path.is_empty() { "/" } else { "" };
        let text = path.iter().map(|segment| format!("/{segment}")).collect::<String>() + end;
        let path = CanonicalPath::parse("GET", &text).unwrap();
        for method in ["GET", "POST", "PUT"] {
            let all = templates.iter().map(parse).zip(0_usize..);
            let matching = all.filter(|(template, _)| template.matches(method, &path));
            // The first of those that are alike.
            let slowly = matching.min_by(|(one, _), (other, _)| one.by_specificity(other));
            prop_assert_eq!(table.find(method, &path), slowly.as_ref(), "{} {}", method, text);
        }
    }
}

/// Templates of few different segments, so that many begin alike, match the same and end differently.
fn many_alike() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(&["a", "b", "ab", "{}", "{}b", "a{}", "a{}b", "{}.{}"][..]);
    let end = prop::sample::select(&["", "", "", "/", "/*"][..]);
    let methods = prop::sample::select(&["", "", "GET ", "POST ", "GET,POST "][..]);
    (methods, prop::collection::vec(segment, 0..6), end).prop_map(|(methods, segments, end)| {
        let mut names = 0..;
        let mut named = |text: &str| {
            let mut pieces = text.split("{}");
            let first = pieces.next().unwrap().to_owned();
            pieces.fold(first, |text, piece| format!("{text}{{p{}}}{piece}", names.next().unwrap()))
        };
        let text =
            segments.into_iter().map(&mut named).map(|segment| format!("/{segment}")).collect::<String>();
        let end = if text.is_empty() && end.is_empty() { "/" } else { end };
        format!("{methods}{text}{end}")
    })
}
