//! hyper's answer to a fault, with the fault's name.

use bytes::Bytes;
use http::StatusCode;

use super::status_of;

/// How hyper answers what it cannot read, up to the date. A test over a connection says when it does otherwise.
const BEGINS: [&[u8]; 2] = [BAD_REQUEST, TOO_LARGE];
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\n";
const TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n";
const GOES_ON: &[u8] = b"connection: close\r\ncontent-length: 0\r\n";

/// The answer that `written` is, with the status and the name of the fault. It is the whole of it: nothing of an app's
/// comes with it.
pub(super) fn answer(written: &[u8], fault: &str) -> Option<Bytes> {
    let rest = BEGINS.iter().find_map(|begins| written.strip_prefix(*begins))?;
    let end = rest.strip_prefix(GOES_ON)?.strip_suffix(b"\r\n")?;
    let is_whole = end.is_empty()
        || end.starts_with(b"date: ") && end.iter().filter(|byte| **byte == b'\n').count() == 1;
    let begins = if status_of(fault) == StatusCode::BAD_REQUEST { BAD_REQUEST } else { TOO_LARGE };
    is_whole.then(|| [begins, b"hauberk-error: ", fault.as_bytes(), b"\r\n", rest].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_faults() {
        for sent in ["HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 431 Request Header Fields Too Large\r\n"] {
            let own = format!("{sent}connection: close\r\ncontent-length: 0\r\n\r\n");
            for (fault, status) in [("too_many_fields", "431"), ("ambiguous_path", "400")] {
                let named = String::from_utf8(answer(own.as_bytes(), fault).unwrap().to_vec()).unwrap();
                assert!(named.starts_with(&format!("HTTP/1.1 {status} ")), "{named}");
                assert!(named.contains(&format!("\r\nhauberk-error: {fault}\r\n")), "{named}");
            }
        }
    }

    #[test]
    fn only_hypers_own_answers_are_given_a_name() {
        for date in ["", "date: Sun, 29 Nov 2026 00:00:00 GMT\r\n"] {
            let own =
                format!("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n{date}\r\n");
            let named = own.replace("connection", "hauberk-error: y\r\nconnection");
            assert_eq!(answer(own.as_bytes(), "y").as_deref(), Some(named.as_bytes()));
            assert_eq!(answer(format!("{own}more").as_bytes(), "y"), None);
            assert_eq!(answer(own.strip_suffix('\n').unwrap().as_bytes(), "y"), None);
        }
        for other in [
            "HTTP/1.1 400 Bad Request\r\nserver: app\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\nserver: app\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\nserver: app\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "",
        ] {
            assert_eq!(answer(other.as_bytes(), "y"), None, "{other}");
        }
    }
}
