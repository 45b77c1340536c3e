//! Logs on standard error: text on a terminal, JSON elsewhere, RFC 3339 UTC. Every event carries a stable name in its
//! field `event`; the filter can be changed while the program runs.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::LogFormat;

/// A filter that is not one, or a subscriber that is gone.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The operator's filter does not parse.
    #[error("{filter:?} is not a log filter such as info or hauberk_control_plane=debug: {reason}")]
    BadFilter {
        /// As given.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// Logging was started twice in this process.
    #[error("logging was started already")]
    StartedTwice,
    /// Logging was not started here.
    #[error("the log filter cannot be changed: {0}")]
    NotReloadable(String),
}

/// Changes the log filter of the running program.
#[derive(Debug, Clone)]
pub struct LogControl {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    current: Arc<Mutex<String>>,
}

impl LogControl {
    /// A control for programs that log in their own way; it refuses changes.
    pub fn detached() -> Self {
        Self { handle: None, current: Arc::default() }
    }

    /// Puts a filter in force and returns the one before.
    ///
    /// # Errors
    /// When the text is no filter; the former one stays then.
    pub fn set_filter(&self, filter: &str) -> Result<String, TelemetryError> {
        let parsed = parse_filter(filter)?;
        let handle =
            self.handle.as_ref().ok_or_else(|| TelemetryError::NotReloadable("it is not ours".to_owned()))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        handle.reload(parsed).map_err(|error| TelemetryError::NotReloadable(error.to_string()))?;
        let previous = std::mem::replace(&mut *current, filter.to_owned());
        tracing::info!(event = "log_filter_changed", filter, previous, "the log filter was changed");
        Ok(previous)
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter does not parse, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl, TelemetryError> {
    let (reloadable, handle) = reload::Layer::new(parse_filter(filter)?);
    let text = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let written = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let written = if text {
        written.with_ansi(std::io::stderr().is_terminal()).boxed()
    } else {
        written.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(reloadable)
        .with(written)
        .try_init()
        .map_err(|_| TelemetryError::StartedTwice)?;
    Ok(LogControl { handle: Some(handle), current: Arc::new(Mutex::new(filter.to_owned())) })
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::BadFilter { filter: filter.to_owned(), reason: error.to_string() })
}
