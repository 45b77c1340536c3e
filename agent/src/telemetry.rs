//! Logs: text on a terminal, JSON elsewhere, always on standard error, so that a child's output stays its own.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::LogFormat;

/// The filter of a running process, which can be changed.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Why logs cannot be set up or changed.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter does not parse. The fault is whoever wrote it.
    #[error("not a log filter: {0}")]
    Filter(String),
    /// There is a subscriber already, or none any longer. The fault is ours.
    #[error("logs cannot be set up: {0}")]
    Setup(String),
}

/// Begins to log.
///
/// # Errors
/// The filter does not parse, or something logs already.
pub fn start(filter: &str, format: LogFormat) -> Result<LogFilter, TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let is_json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if is_json {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        layer.with_ansi(is_terminal).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|error| TelemetryError::Setup(error.to_string()))?;
    Ok(LogFilter(handle))
}

impl LogFilter {
    /// The filter in force.
    pub fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// It does not parse; the former one stays.
    pub fn replace(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|error| TelemetryError::Setup(error.to_string()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter(error.to_string()))
}
