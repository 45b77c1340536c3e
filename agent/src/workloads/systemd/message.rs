//! Messages of D-Bus, as far as methods with texts are called (D-Bus Specification, "Message Format").

use thiserror::Error;

/// The largest message that is read, in bytes.
pub(super) const LARGEST: usize = 256 * 1024;

/// What comes before the header's fields.
pub(super) const PREAMBLE: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const VERSION: u8 = 1;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method to be called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// All of them texts.
    pub(super) arguments: &'a [&'a str],
}

/// A message that answers a call, or another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One text, a path of an object, or a variant that holds a text; empty where there is nothing.
    Return { to: u32, text: String },
    /// An error, by its name.
    Error { to: u32, name: String },
    /// A signal, or something else that answers nothing.
    Other,
}

/// A message that cannot be read. The fault is the bus's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message of the bus cannot be read")]
pub(crate) struct MalformedError;

impl Call<'_> {
    /// The message, in little endian.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|argument| body.text(argument));
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, VERSION]);
        message.number(length(&body.0));
        message.number(serial);
        let mut fields = Writer::default();
        fields.field(PATH, "o", self.path);
        fields.field(INTERFACE, "s", self.interface);
        fields.field(MEMBER, "s", self.member);
        fields.field(DESTINATION, "s", self.destination);
        if !self.arguments.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g");
            fields.signature(&"s".repeat(self.arguments.len()));
        }
        // The fields begin at a multiple of 8, so that their own alignment is the message's.
        message.number(length(&fields.0));
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

/// How many bytes follow a message's first ones.
pub(super) fn rest_of(preamble: &[u8; PREAMBLE]) -> Result<usize, MalformedError> {
    let reader = Reader::of(preamble)?;
    let body = reader.number_at(4)? as usize;
    let fields = reader.number_at(12)? as usize;
    let rest = fields
        .checked_next_multiple_of(8)
        .and_then(|fields| fields.checked_add(body))
        .ok_or(MalformedError)?;
    if rest.saturating_add(PREAMBLE) > LARGEST { Err(MalformedError) } else { Ok(rest) }
}

/// Reads a whole message.
pub(super) fn decode(message: &[u8]) -> Result<Received, MalformedError> {
    let mut reader = Reader::of(message)?;
    let kind = *message.get(1).ok_or(MalformedError)?;
    reader.at = 12;
    let fields_end = PREAMBLE + reader.number()? as usize;
    let (mut to, mut error_name, mut signature) = (None, String::new(), String::new());
    while reader.at < fields_end {
        reader.align(8)?;
        let field = reader.byte()?;
        match reader.signature()?.as_str() {
            "s" | "o" => {
                let text = reader.text()?;
                if field == ERROR_NAME {
                    error_name = text;
                }
            }
            "u" => {
                let number = reader.number()?;
                if field == REPLY_SERIAL {
                    to = Some(number);
                }
            }
            "g" => {
                let text = reader.signature()?;
                if field == SIGNATURE {
                    signature = text;
                }
            }
            _ => return Err(MalformedError),
        }
    }
    reader.at = fields_end;
    reader.align(8)?;
    match (kind, to) {
        (METHOD_RETURN, Some(to)) => {
            if signature == "v" {
                signature = reader.signature()?;
            }
            let text = match signature.as_str() {
                "" => String::new(),
                "s" | "o" => reader.text()?,
                _ => return Err(MalformedError),
            };
            Ok(Received::Return { to, text })
        }
        (ERROR, Some(to)) => Ok(Received::Error { to, name: error_name }),
        _ => Ok(Received::Other),
    }
}

fn length(bytes: &[u8]) -> u32 {
    // Ours are short.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.as_bytes()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        self.text(text);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, MalformedError> {
        let is_big_endian = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(MalformedError),
        };
        Ok(Self { bytes, at: 0, is_big_endian })
    }

    fn align(&mut self, to: usize) -> Result<(), MalformedError> {
        self.at = self.at.checked_next_multiple_of(to).ok_or(MalformedError)?;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MalformedError> {
        let end = self.at.checked_add(count).ok_or(MalformedError)?;
        let taken = self.bytes.get(self.at..end).ok_or(MalformedError)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, MalformedError> {
        self.take(1)?.first().copied().ok_or(MalformedError)
    }

    fn number_at(&self, at: usize) -> Result<u32, MalformedError> {
        Reader { at, ..*self }.number()
    }

    fn number(&mut self) -> Result<u32, MalformedError> {
        self.align(4)?;
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| MalformedError)?;
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Result<String, MalformedError> {
        let count = self.number()? as usize;
        self.terminated(count)
    }

    fn signature(&mut self) -> Result<String, MalformedError> {
        let count = usize::from(self.byte()?);
        self.terminated(count)
    }

    fn terminated(&mut self, count: usize) -> Result<String, MalformedError> {
        let text = String::from_utf8(self.take(count)?.to_vec()).map_err(|_| MalformedError)?;
        if self.byte()? == 0 { Ok(text) } else { Err(MalformedError) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: Call<'_> = Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "GetUnit",
        arguments: &["nginx.service"],
    };

    /// A message of another kind with these fields and this body.
    fn message(kind: u8, fields: Writer, body: Writer) -> Vec<u8> {
        let mut message = Writer(vec![b'l', kind, 0, VERSION]);
        message.number(length(&body.0));
        message.number(9);
        message.number(length(&fields.0));
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    fn reply_fields(signature: &str) -> Writer {
        let mut fields = Writer::default();
        fields.0.push(REPLY_SERIAL);
        fields.signature("u");
        fields.number(7);
        if !signature.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
        fields
    }

    #[test]
    fn answers_are_read() {
        let mut path = Writer::default();
        path.text("/org/freedesktop/systemd1/unit/nginx_2eservice");
        let answer = message(METHOD_RETURN, reply_fields("o"), path);
        assert_eq!(rest_of(answer.first_chunk().unwrap()).unwrap() + PREAMBLE, answer.len());
        let text = "/org/freedesktop/systemd1/unit/nginx_2eservice".to_owned();
        assert_eq!(decode(&answer).unwrap(), Received::Return { to: 7, text });

        let mut variant = Writer::default();
        variant.signature("s");
        variant.text("/etc/systemd/system/nginx.service");
        let answer = message(METHOD_RETURN, reply_fields("v"), variant);
        let text = "/etc/systemd/system/nginx.service".to_owned();
        assert_eq!(decode(&answer).unwrap(), Received::Return { to: 7, text });

        let empty = message(METHOD_RETURN, reply_fields(""), Writer::default());
        assert_eq!(decode(&empty).unwrap(), Received::Return { to: 7, text: String::new() });

        let mut fields = reply_fields("s");
        fields.field(ERROR_NAME, "s", "org.freedesktop.systemd1.NoSuchUnit");
        let name = "org.freedesktop.systemd1.NoSuchUnit".to_owned();
        assert_eq!(
            decode(&message(ERROR, fields, Writer::default())).unwrap(),
            Received::Error { to: 7, name }
        );
        assert_eq!(decode(&CALL.encode(1)).unwrap(), Received::Other);
    }

    #[test]
    fn nothing_larger_than_allowed_is_awaited() {
        let mut preamble = [0; PREAMBLE];
        preamble[0] = b'l';
        preamble[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(rest_of(&preamble).is_err());
        preamble[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(rest_of(&preamble).is_err());
        preamble[0] = b'?';
        assert!(rest_of(&preamble).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..150usize, to in any::<u8>()) {
            let _ = decode(&bytes);
            let mut changed = CALL.encode(3);
            if let Some(byte) = changed.get_mut(at) {
                *byte = to;
            }
            let _ = decode(&changed);
        }
    }
}
