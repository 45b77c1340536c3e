//! "Did you mean …?"

/// Longer words are nobody's slip of the pen, and comparing them takes as long as they are.
const LONGEST_WORD: usize = 100;

/// The candidate that `word` most likely stands for, if any is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let wanted = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(wanted.len().min(candidate.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean `x`?`, or nothing.
pub(crate) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|found| format!("; did you mean `{found}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("portMaping", ["portMapping", "tls"]), Some("portMapping"));
        assert_eq!(nearest("Virtualnode", ["VirtualNode", "Mesh"]), Some("VirtualNode"));
        assert_eq!(nearest("colour", ["portMapping", "tls"]), None);
        assert_eq!(nearest("x", ["tls"]), None);
        let long = "a".repeat(101);
        assert_eq!(nearest(&long, [long.as_str()]), None);
    }
}
