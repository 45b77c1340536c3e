//! hyper's answer to a fault, with the fault's name.

use bytes::Bytes;

/// How hyper begins its own answers, to what it cannot read. Those of an app begin with its own fields. A test over a connection
/// says when hyper begins them otherwise.
const BEGINS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n";
const GOES_ON: &[u8] = b"connection: close\r\ncontent-length: 0\r\n";

/// What is wrong where hyper alone has found it.
const UNREADABLE: &str = "malformed_request";

/// The answer in `written` with the name of the fault, where it is hyper's own.
pub(super) fn answer(written: &[u8], fault: Option<&str>) -> Option<Bytes> {
    let fault = fault.unwrap_or(UNREADABLE);
    let rest = written.strip_prefix(BEGINS).filter(|rest| rest.starts_with(GOES_ON))?;
    Some([BEGINS, b"hauberk-error: ", fault.as_bytes(), b"\r\n", rest].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answers_are_given_a_name() {
        let own = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let named = b"HTTP/1.1 400 Bad Request\r\nhauberk-error: y\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(answer(own, Some("y")).as_deref(), Some(&named[..]));
        assert!(
            String::from_utf8_lossy(&answer(own, None).unwrap())
                .contains("hauberk-error: malformed_request\r\n")
        );
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\nserver: app\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"",
        ] {
            assert_eq!(answer(other, Some("y")), None);
        }
    }
}
