//! For administrators on this host: `/config`, `/drain`, `/log-filter`, `/metrics`.
//!
//! Loopback is no protection against a browser on the same host, so that requests under any other host name (DNS
//! rebinding) and from web pages are refused.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, HeaderMap, ORIGIN};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::health;
use crate::local_http::{Answer, Answers, text, typed};
use crate::status::Status;
use crate::telemetry::LogFilter;

/// The longest filter.
const MAX_BODY: usize = 4_096;

/// The admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) status: Arc<Status>,
    pub(crate) log_filter: LogFilter,
}

impl Answers for Admin {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !is_local(request.headers()) {
            return text(StatusCode::FORBIDDEN, "this is for programs on this host, under a loopback name\n");
        }
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            ("/config", &Method::GET) => {
                let config = serde_json::to_vec_pretty(&self.status.config()).unwrap_or_default();
                typed(StatusCode::OK, "application/json", config)
            }
            ("/drain", &Method::POST) => {
                self.status.draining.send_replace(true);
                tracing::info!(event = "draining", by = "admin");
                text(StatusCode::OK, "draining: new traffic goes to other instances from now on\n")
            }
            ("/log-filter", &Method::GET) => text(StatusCode::OK, format!("{}\n", self.log_filter.current())),
            ("/log-filter", &Method::PUT) => {
                let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                    return text(StatusCode::BAD_REQUEST, "the filter is too long\n");
                };
                let filter = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
                match self.log_filter.replace(&filter) {
                    Ok(()) => {
                        tracing::info!(event = "log_filter_changed", filter);
                        text(StatusCode::OK, "changed\n")
                    }
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                }
            }
            ("/metrics", &Method::GET) => health::metrics(&self.status),
            ("/config" | "/drain" | "/log-filter" | "/metrics", _) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "another method is wanted here\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are GET /config, POST /drain, GET and PUT /log-filter, GET /metrics\n",
            ),
        }
    }
}

fn is_local(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let is_from_a_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    !is_from_a_page && host.to_str().is_ok_and(names_loopback)
}

fn names_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered() {
        for local in ["localhost", "LocalHost:15000", "127.0.0.1", "127.1.2.3:80", "[::1]:15000", "[::1]"] {
            assert!(names_loopback(local), "{local}");
        }
        for other in
            ["", "evil.example", "localhost.evil.example:15000", "10.0.0.1", "[::2]", "127.0.0.1.nip.io"]
        {
            assert!(!names_loopback(other), "{other}");
        }
    }

    #[test]
    fn pages_and_missing_or_double_hosts_are_refused() {
        let mut headers = HeaderMap::new();
        assert!(!is_local(&headers));
        headers.insert(HOST, "localhost".parse().unwrap());
        assert!(is_local(&headers));
        headers.append(HOST, "localhost".parse().unwrap());
        assert!(!is_local(&headers));
        headers.insert(HOST, "localhost".parse().unwrap());
        headers.insert(ORIGIN, "http://localhost".parse().unwrap());
        assert!(!is_local(&headers));
    }
}
