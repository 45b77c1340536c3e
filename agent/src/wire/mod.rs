//! HTTP messages and byte streams, in what both directions of traffic handle alike.

pub(crate) mod accept;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod budget;
pub(crate) mod causes;
mod cuttable;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod meter;
pub(crate) mod origin;
pub(crate) mod prompt;
pub(crate) mod pump;
pub(crate) mod serve;
pub(crate) mod socket;
pub(crate) mod strict;
pub(crate) mod tasks;
pub(crate) mod transport;
pub(crate) mod tunnel;
pub(crate) mod unread;
pub(crate) mod upgrade;
mod written;

/// ALPN protocols (RFC 7301) between agents.
pub(crate) mod alpn {
    /// HTTP/1.1.
    pub(crate) const HTTP1: &[u8] = b"http/1.1";
    /// HTTP/2.
    pub(crate) const HTTP2: &[u8] = b"h2";
    /// TCP streams, each one CONNECT of HTTP/2.
    pub(crate) const TUNNEL: &[u8] = b"hauberk-tcp/1";
    /// Proof of a renewed certificate for older connections.
    pub(crate) const PROVE: &[u8] = b"hauberk-prove/1";
}
