//! One JSON line for each request and connection, written off the hot path.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_policy::{Fact, HeaderLines};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::{DecisionId, Facts, OutboundFacts, Outcome};

/// How many bytes of lines may wait; what comes on top is counted and left out.
const MAX_WAITING: usize = 1 << 20;
/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines are put. Never waits for whoever reads them.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Shared>);

/// The thread that writes them. Dropping it without [`AccessLogWriter::close`] leaves the last lines unwritten.
#[derive(Debug)]
pub struct AccessLogWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    is_closed: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "with_millis")]
    timestamp: UnixMillis,
    event: &'static str,
    direction: &'static str,
    decision: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_decision: Option<&'static str>,
    caller: &'a str,
    peer: Text<std::net::SocketAddr>,
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    service: &'a str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'a str,
    #[serde(flatten)]
    facts: FactsRead<'a>,
    #[serde(serialize_with = "as_texts")]
    policies: &'a [Arc<str>],
    #[serde(skip_serializing_if = "is_zero")]
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    duration_us: u64,
    bytes_in: u64,
    bytes_out: u64,
    epoch: u64,
    revision: u64,
}

/// What else the policies in play read.
#[derive(Serialize, Default)]
struct FactsRead<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_age_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_fields")]
    headers: &'a [HeaderLines],
    /// `login/alice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Who passed the user on before the caller did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actors: Vec<&'a str>,
}

/// The same for what local apps send.
#[derive(Serialize)]
struct OutboundLine<'a> {
    #[serde(serialize_with = "with_millis")]
    timestamp: UnixMillis,
    event: &'static str,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    service: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    port: u16,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Text<std::net::SocketAddr>>,
    #[serde(skip_serializing_if = "is_once")]
    attempts: u32,
    #[serde(skip_serializing_if = "is_zero")]
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    duration_us: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Serialised as it prints.
struct Text<T>(T);

impl AccessLog {
    /// A log whose lines go to `sink`, and the thread that brings them there.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<(Self, AccessLogWriter)> {
        let shared = Arc::new(Shared::default());
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).stack_size(64 * 1024).spawn({
                let shared = Arc::clone(&shared);
                move || shared.write_until_closed(sink)
            })?;
        Ok((Self(Arc::clone(&shared)), AccessLogWriter { shared, thread }))
    }

    pub(super) fn write(
        &self,
        at: UnixMillis,
        facts: &Facts<'_>,
        id: Option<&DecisionId>,
        outcome: &Outcome,
    ) {
        let line = Line {
            timestamp: at,
            event: "access",
            direction: "inbound",
            decision: facts.ruling.verdict().as_str(),
            reason: facts.ruling.reason(),
            id: id.map(DecisionId::as_str),
            audit_decision: facts.ruling.audit_verdict().map(super::Verdict::as_str),
            caller: facts.caller_id(),
            peer: Text(facts.peer_address),
            port: facts.port,
            service: facts.service,
            action: facts.request.action(),
            method: facts.request.method(),
            path: facts.request.path(),
            route: facts.ruling.route(),
            facts: FactsRead::of(facts),
            policies: facts.ruling.policies(),
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            duration_us: outcome.micros(),
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            epoch: facts.view.map_or(0, |view| view.epoch),
            revision: facts.view.map_or(0, |view| view.revision),
        };
        self.add(&line);
    }

    pub(super) fn write_outbound(&self, at: UnixMillis, facts: &OutboundFacts<'_>, outcome: &Outcome) {
        self.add(&OutboundLine {
            timestamp: at,
            event: "access",
            direction: "outbound",
            error: facts.error,
            id: facts.decision,
            service: facts.service,
            port: facts.port,
            action: facts.request.action(),
            method: facts.request.method(),
            path: facts.request.path(),
            endpoint: facts.endpoint.map(Text),
            attempts: facts.attempts,
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            duration_us: outcome.micros(),
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
        });
    }

    fn add(&self, line: &impl Serialize) {
        let mut text = Vec::with_capacity(512);
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, Printable(CompactFormatter));
        // Only a serialiser of ours could fail here, and none does; a half-written line must not go out all the same.
        if line.serialize(&mut serializer).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        text.push(b'\n');
        self.0.add(&text);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl<'a> FactsRead<'a> {
    fn of(facts: &Facts<'a>) -> Self {
        let reads = facts.ruling.reads();
        let tls = facts.peer.tls().filter(|_| reads.contains(Fact::Tls));
        let reads_age = reads.contains(Fact::CertificateAge);
        let origin = facts.origin_read();
        Self {
            tls_version: tls.map(|tls| &*tls.version),
            tls_group: tls.map(|tls| &*tls.group),
            certificate_age_s: facts.moment.certificate_age().filter(|_| reads_age),
            host: facts.host_read(),
            query: facts.query_read(),
            headers: facts.headers_read(),
            user: origin.map(|origin| origin.user.name()),
            actors: origin.into_iter().flat_map(|origin| &origin.actors).map(|id| id.as_str()).collect(),
        }
    }
}

impl AccessLogWriter {
    /// Writes what is waiting and ends the thread. Blocks as long as the sink does.
    pub fn close(self) {
        self.shared.waiting().is_closed = true;
        self.shared.changed.notify_all();
        if self.thread.join().is_err() {
            tracing::error!(event = "access_log_failed");
        }
    }
}

impl Shared {
    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > MAX_WAITING {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if was_empty {
            self.changed.notify_one();
        }
    }

    fn write_until_closed(&self, mut sink: impl Write) {
        let mut lines = Vec::new();
        loop {
            let waiting = self
                .changed
                .wait_while(self.waiting(), |waiting| waiting.lines.is_empty() && !waiting.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            // Further lines may come meanwhile; they are written together, so that a busy agent wakes us seldom.
            let (mut waiting, _) = self
                .changed
                .wait_timeout_while(waiting, GATHER, |waiting| !waiting.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut waiting.lines);
            let is_closed = waiting.is_closed;
            drop(waiting);
            if sink.write_all(&lines).and_then(|()| sink.flush()).is_err() {
                let lost = lines.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            }
            lines.clear();
            lines.shrink_to(64 * 1024);
            if is_closed {
                return;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Escapes whatever is not printable ASCII, so that no caller can steer a terminal or break a line.
struct Printable(CompactFormatter);

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                writer.write_all(&[c as u8])?;
            } else {
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }
}

// By reference, as serde hands fields over.
fn with_millis<S: serde::Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

fn as_texts<S: serde::Serializer>(names: &&[Arc<str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(|name| &**name))
}

/// By name; a field that cannot be read is null.
fn as_fields<S: serde::Serializer>(headers: &&[HeaderLines], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|lines| (&*lines.name, lines.values.as_deref())))
}

fn is_once(attempts: &u32) -> bool {
    *attempts <= 1
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}
