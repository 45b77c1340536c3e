//! Values that are one of a few words, and names that were perhaps mistyped.

use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_identity::{Name, NodeName};
use hauberk_policy::Authorization;
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1 as wire;

use super::problem::Problems;

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 1_000;

/// `did you mean "http"?`, ready to follow a message; `None` where nothing is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let lower = word.to_lowercase();
    let length = lower.chars().count();
    let is_near = |distance: usize| distance <= 1 + length / 4 && distance < length;
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| is_near(*distance))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean {candidate:?}?"))
}

/// Reads a word; reports one that is not known, with the nearest that is.
pub(crate) fn choose<T: Copy>(
    problems: &mut Problems,
    field: &str,
    word: &str,
    known: &[(&'static str, T)],
) -> Option<T> {
    if let Some((_, value)) = known.iter().find(|(candidate, _)| *candidate == word) {
        return Some(*value);
    }
    let words = || known.iter().map(|(candidate, _)| *candidate);
    let all = words().collect::<Vec<_>>().join(", ");
    let help = did_you_mean(word, words()).unwrap_or_else(|| format!("it is one of {all}"));
    let message = if word.is_empty() { "it is empty".to_owned() } else { format!("{word:?} is not known") };
    problems.invalid_but(field, message, help);
    None
}

/// Reads `authorization`.
pub(crate) fn authorization(
    problems: &mut Problems,
    field: &str,
    word: Option<&str>,
) -> Option<Authorization> {
    choose(problems, field, word?, &[("ENFORCE", Authorization::Enforce), ("AUDIT", Authorization::Audit)])
}

/// Looks at a description, in a person's words.
pub(crate) fn description(problems: &mut Problems, text: Option<&str>) {
    let length = text.map_or(0, |text| text.chars().count());
    if length > LONGEST_DESCRIPTION && !problems.are_of_stored() {
        let message = format!("it has {length} characters; at most {LONGEST_DESCRIPTION} are kept");
        problems.invalid("spec.description", message);
    }
}

/// Reads a port number; `None` in the message means it was left out.
pub(crate) fn port(problems: &mut Problems, field: &str, number: Option<u32>) -> Option<u16> {
    match number.map(u16::try_from) {
        Some(Ok(number)) if number > 0 => return Some(number),
        Some(_) => {
            let number = number.unwrap_or_default();
            problems.invalid(field, format!("{number} is not a port number from 1 to 65535"));
        }
        None => problems.invalid(field, "a port number from 1 to 65535 is missing"),
    }
    None
}

/// Reads a name.
pub(crate) fn name(problems: &mut Problems, field: &str, text: &str) -> Option<Name> {
    Name::parse(text).map_err(|error| problems.invalid(field, error)).ok()
}

/// Reads the virtual node or gateway that stands in `field`.
pub(crate) fn node(
    problems: &mut Problems,
    field: &str,
    written: Option<WrittenNode<'_>>,
) -> Option<NodeName> {
    let Some(written) = written else {
        let help = "write virtualNode: or virtualGateway: and a name";
        problems.invalid_but(field, "it names neither a virtual node nor a virtual gateway", help);
        return None;
    };
    let named = written.named();
    named.map_err(|error| problems.invalid(format!("{field}.{}", written.key()), error)).ok()
}

/// Reads a list of at most `most` names, each once, and puts them in order.
pub(crate) fn names(problems: &mut Problems, field: &str, texts: &[String], most: usize) -> Vec<Name> {
    if texts.len() > most {
        problems.invalid(field, format!("{} names are too many: at most {most}", texts.len()));
    }
    let mut parsed = BTreeSet::new();
    for (index, text) in texts.iter().enumerate().take(most) {
        let field = format!("{field}[{index}]");
        if let Some(name) = name(problems, &field, text)
            && !parsed.insert(name)
        {
            problems.invalid(field, format!("{text:?} stands here twice"));
        }
    }
    parsed.into_iter().collect()
}

/// Reads a duration, `{value: 30, unit: s}`.
pub(crate) fn duration(problems: &mut Problems, field: &str, duration: &wire::Duration) -> Option<Duration> {
    let wire::Duration { value, unit } = duration;
    let of_one = choose(
        problems,
        &format!("{field}.unit"),
        unit,
        &[("s", Duration::from_secs(1)), ("ms", Duration::from_millis(1))],
    );
    match value {
        Some(value) => Some(of_one?.saturating_mul(*value)),
        None => {
            problems.invalid(format!("{field}.value"), "a number is missing");
            None
        }
    }
}
