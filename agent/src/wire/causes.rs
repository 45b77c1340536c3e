//! Errors in words.

/// The longest that is told, in characters: some of it may be a peer's own words, such as those of a GOAWAY.
const LONGEST: usize = 300;

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = words(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = words(error);
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    bounded(text)
}

fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// An error in words for whoever knows neither TLS nor the libraries that speak it. A URL leads to their manuals.
fn words(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    if text.starts_with("peer closed connection without sending TLS close_notify") {
        return "it closed the connection without TLS's close_notify".to_owned();
    }
    let own = text.split_once("https://").map(|(own, _)| own.trim_end_matches([':', ' ']).to_owned());
    own.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn no_library_is_quoted_to_callers() {
        let manual = "https://manual.example/latest/howto#unexpected-eof";
        let text = |text: String| chain(&io::Error::new(io::ErrorKind::UnexpectedEof, text));
        let said = text(format!("peer closed connection without sending TLS close_notify: {manual}"));
        assert_eq!(said, "it closed the connection without TLS's close_notify");
        assert_eq!(text(format!("something else: {manual}")), "something else");
        assert_eq!(text("reset by peer".to_owned()), "reset by peer");
    }

    #[test]
    fn what_a_peer_says_is_told_in_part() {
        let text = |text: String| chain(&io::Error::other(text));
        assert_eq!(text("é".repeat(300)), "é".repeat(300));
        assert_eq!(text("é".repeat(301)), format!("{}…", "é".repeat(300)));
    }
}
