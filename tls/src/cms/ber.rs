//! Elements of BER (X.690 §8): as DER, but lengths may be left open and texts stand in parts.

/// How deep elements of open length may stand in one another.
const MAX_DEPTH: usize = 12;

/// One element: its contents, and the same with tag and length before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) whole: &'a [u8],
    pub(super) contents: &'a [u8],
}

/// Splits an element of the given tag off `bytes`.
pub(super) fn element(bytes: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    if *bytes.first()? == tag { split(bytes, MAX_DEPTH) } else { None }
}

/// The contents of an element that is all there is.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = element(bytes, tag)?;
    rest.is_empty().then_some(element.contents)
}

/// The text of an OCTET STRING that is all there is, in one piece or in parts.
pub(super) fn octets(bytes: &[u8]) -> Option<Vec<u8>> {
    const WHOLE: u8 = 0x04;
    const IN_PARTS: u8 = 0x24;
    if let Some(contents) = only(bytes, WHOLE) {
        return Some(contents.to_vec());
    }
    let (mut parts, mut text) = (only(bytes, IN_PARTS)?, Vec::new());
    while !parts.is_empty() {
        let (part, rest) = element(parts, WHOLE)?;
        text.extend_from_slice(part.contents);
        parts = rest;
    }
    Some(text)
}

/// Splits any element off. Tags have one octet; all that documents need have.
fn split(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    const CONSTRUCTED: u8 = 0x20;
    const LONG_TAG: u8 = 0x1f;
    let (tag, length) = (*bytes.first()?, *bytes.get(1)?);
    if tag & LONG_TAG == LONG_TAG {
        return None;
    }
    if length == 0x80 {
        if tag & CONSTRUCTED == 0 {
            return None;
        }
        return split_open(bytes, depth.checked_sub(1)?);
    }
    let (header, len) = match length {
        0..=0x7f => (2, usize::from(length)),
        _ => {
            let count = usize::from(length & 0x7f);
            let octets = bytes.get(2..2 + count).filter(|octets| octets.len() <= 3)?;
            (2 + count, octets.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)))
        }
    };
    let (whole, rest) = bytes.split_at_checked(header + len)?;
    Some((Element { whole, contents: whole.get(header..)? }, rest))
}

/// The length is open: its end is marked (X.690 §8.1.5).
fn split_open(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let body = bytes.get(2..)?;
    let mut rest = body;
    loop {
        if let Some(after) = rest.strip_prefix(&[0, 0]) {
            let contents = body.get(..body.len() - rest.len())?;
            let whole = bytes.get(..bytes.len() - after.len())?;
            return Some((Element { whole, contents }, after));
        }
        (_, rest) = split(rest, depth)?;
    }
}
