//! Escapes of URLs: `%` and two hex digits (RFC 3986 §2.1).

/// A part of a URL without its escapes, as the fragment by which an OpenAPI document refers to some part of itself; nothing
/// where an escape is broken, or what comes out is no UTF-8.
pub fn unescaped(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_value)?;
                let low = bytes.next().and_then(hex_value)?;
                high << 4 | low
            }
            _ => byte,
        });
    }
    String::from_utf8(plain).ok()
}

/// What a hex digit stands for. Nothing else may stand in an escape, where a number may have a sign.
pub(crate) fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_has_two_hex_digits() {
        for (text, plain) in [
            ("", Some("")),
            ("/paths/~1orders~1%7Bid%7d", Some("/paths/~1orders~1{id}")),
            ("caf%C3%A9 é", Some("café é")),
            ("%2525", Some("%25")),
            ("%", None),
            ("a%7", None),
            ("%zz", None),
            ("%+a", None),
            ("%-1", None),
            ("% 1", None),
            ("%é", None),
            ("%C3", None),
        ] {
            assert_eq!(unescaped(text).as_deref(), plain, "{text}");
        }
    }
}
