//! Prometheus' text format, version 0.0.4.
//!
//! Label values here are port numbers, names of services and names in this program: none holds a character that would
//! have to be escaped.

use std::fmt::{Display, Write};
use std::sync::Arc;

use super::histogram::Histogram;

/// A page of figures.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

/// Names and values of labels.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// A figure without labels that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A figure without labels that only rises.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// Says what the samples that follow are.
    pub(super) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String does not fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One figure.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// Counters with two labels: whose they are, and what they count.
    pub(super) fn counters<T>(
        &mut self,
        name: &str,
        help: &str,
        (owner_label, label): (&str, &str),
        owners: &[(String, Arc<T>)],
        counted: impl Fn(&T) -> Vec<(&'static str, u64)>,
    ) {
        self.begin(name, "counter", help);
        for (owner, of) in owners {
            for (value, count) in counted(of) {
                self.sample(name, &[(owner_label, owner), (label, value)], count);
            }
        }
    }

    /// Times, by upper bounds.
    pub(super) fn histogram<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Option<(&'a str, &'a str)>, &'a Histogram<N>)>,
    ) {
        self.begin(name, "histogram", help);
        let bucket_name = format!("{name}_bucket");
        for (label, histogram) in samples {
            let labels = label.as_slice();
            let mut bucket = |bound: &str, count: u64| {
                self.sample(&bucket_name, &[labels, &[("le", bound)]].concat(), count);
            };
            let mut count = 0;
            for (bound, so_far) in histogram.buckets() {
                bucket(&bound.to_string(), so_far);
                count = so_far;
            }
            count += histogram.above();
            bucket("+Inf", count);
            self.sample(&format!("{name}_sum"), labels, histogram.sum());
            self.sample(&format!("{name}_count"), labels, count);
        }
    }

    /// The page.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}
