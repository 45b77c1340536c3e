//! What is kept of the head of a request that opens a stream of its own, such as a WebSocket: it may last for days, and rules that
//! come meanwhile may read what those that let it in did not.

use std::sync::Arc;

use hauberk_policy::{Gathered, Wanted};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

/// The most bytes of one request. Of larger ones nothing is kept, and what is then not known is denied.
const MOST: usize = 8 * 1024;
/// Policies cannot name these, and secrets are kept no longer than they must be.
const NEVER_READ: [HeaderName; 2] = [AUTHORIZATION, COOKIE];
/// In the place of a token, which may be no longer secret by the rules that come: no text.
const UNREADABLE: &[u8] = b"\xff";

/// The name and value of a header field.
type Field = (Box<str>, Box<[u8]>);

/// The host and header fields of a request, as its app got them.
#[derive(Debug)]
pub(crate) struct Kept {
    host: Box<str>,
    fields: Box<[Field]>,
}

impl Kept {
    /// Of a request with this host and these fields, if it is not too much. `is_secret` says which fields hold tokens.
    pub(crate) fn of(host: &str, fields: &HeaderMap, is_secret: impl Fn(&str) -> bool) -> Option<Arc<Self>> {
        let fields = || fields.iter().filter(|(name, _)| !NEVER_READ.contains(name));
        let size = fields().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        (host.len() + size <= MOST).then(|| {
            let fields = fields().map(|(name, value)| {
                let value = if is_secret(name.as_str()) { UNREADABLE } else { value.as_bytes() };
                (name.as_str().into(), value.into())
            });
            Arc::new(Self { host: host.into(), fields: fields.collect() })
        })
    }

    /// What rules want of it; none where the app may have read another host than the one that these would decide by.
    pub(super) fn gather(&self, wanted: &Wanted, is_secret: impl Fn(&str) -> bool) -> Option<Gathered> {
        let fields = self.fields.iter().map(|(name, value)| (&**name, &**value));
        let gathered = wanted.gather(&self.host, fields.filter(|(name, _)| !is_secret(name)));
        gathered.host().is_none_or(|host| host == &*self.host).then_some(gathered)
    }
}
