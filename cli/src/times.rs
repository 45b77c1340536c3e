//! Durations and instants as people write and read them.

use std::time::Duration;

use hauberk_identity::UnixMillis;
use prost_types::Timestamp;

/// Reads `30s`, `10m`, `1h30m`, `2d`.
///
/// # Errors
/// A message with an example.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 30s, 10m or 1h30m");
    // Days are as long as people mean here: 24 hours.
    let parsed: jiff::Span = text.parse().map_err(|_| wrong())?;
    let parsed = parsed.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

/// Reads a duration before now, or an instant such as `2026-11-22T15:00:00Z`.
///
/// # Errors
/// A message with examples.
pub(crate) fn since(text: &str, now: UnixMillis) -> Result<UnixMillis, String> {
    if let Ok(ago) = duration(text) {
        return Ok(now.minus(ago));
    }
    let instant: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is neither a duration (1h) nor an instant (2026-11-22T15:00:00Z)"))?;
    Ok(UnixMillis(u64::try_from(instant.as_millisecond()).unwrap_or_default()))
}

/// An instant of the API.
pub(crate) fn instant(timestamp: &Timestamp) -> UnixMillis {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or_default();
    let millis = u64::try_from(timestamp.nanos / 1_000_000).unwrap_or_default();
    UnixMillis(seconds.saturating_mul(1000).saturating_add(millis))
}

/// For the API.
pub(crate) fn timestamp(instant: UnixMillis) -> Timestamp {
    let seconds = i64::try_from(instant.0 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from((instant.0 % 1000) * 1_000_000).unwrap_or_default();
    Timestamp { seconds, nanos }
}

/// `45s`, `12m`, `3h20m`, `12d`: two units at the most where the first is small.
pub(crate) fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 && !seconds.is_multiple_of(60) {
        format!("{minutes}m{}s", seconds % 60)
    } else if minutes < 60 {
        format!("{minutes}m")
    } else if hours < 10 && !minutes.is_multiple_of(60) {
        format!("{hours}h{}m", minutes % 60)
    } else if hours < 48 {
        format!("{hours}h")
    } else {
        format!("{days}d")
    }
}

/// How long ago, or `-`.
pub(crate) fn age(timestamp: Option<&Timestamp>, now: UnixMillis) -> String {
    timestamp.map_or_else(|| "-".to_owned(), |at| short(now.since(instant(at))))
}

/// `in 41m`, `expired 3m ago`, or `-`.
pub(crate) fn until(timestamp: Option<&Timestamp>, now: UnixMillis) -> String {
    let Some(at) = timestamp.map(instant) else { return "-".to_owned() };
    if at < now {
        format!("expired {} ago", short(now.since(at)))
    } else {
        format!("in {}", short(at.since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert!(duration("soon").is_err());
        assert!(duration("-5s").is_err());
    }

    #[test]
    fn spans_are_short() {
        let shown: Vec<String> =
            [5, 119, 600, 4500, 36_000, 900_000].map(|seconds| short(Duration::from_secs(seconds))).into();
        assert_eq!(shown, ["5s", "119s", "10m", "1h15m", "10h", "10d"]);
    }
}
