//! Arguments of the commands about who may do what.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{caller_names, node_names, resource_words, target_names};
use crate::times;

/// `allow` and `deny`
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Who calls: a virtual node, a SPIFFE id, gateway/NAME, role/NAME; several with commas
    #[arg(value_delimiter = ',', required = true, add = ArgValueCandidates::new(caller_names))]
    pub(crate) callers: Vec<String>,
    /// What is called: a virtual service, else a virtual node; or external/NAME
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) target: String,
    /// Only these HTTP methods; `upgrade`, beside GET, for WebSockets
    #[arg(long, value_delimiter = ',', value_name = "GET,HEAD")]
    pub(crate) methods: Vec<String>,
    /// Only these paths; * stands for anything, slashes included
    #[arg(long, value_name = "'/orders/*'")]
    pub(crate) path: Option<String>,
    /// Only this port of the target
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Only this gRPC method; * stands for all of a service
    #[arg(long, value_name = "package.Service/Method", conflicts_with_all = ["methods", "path"])]
    pub(crate) rpc: Option<String>,
    /// Show the policy, but apply nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return when every agent concerned enforces it [default when given: 30s]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}

/// `can`
#[derive(Debug, Args)]
pub(crate) struct Can {
    /// Who calls: a virtual node, gateway/NAME, a SPIFFE id, or anonymous
    #[arg(add = ArgValueCandidates::new(caller_names))]
    pub(crate) caller: String,
    /// What is called: a virtual service, else a virtual node; or external/NAME
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) target: String,
    /// An HTTP method (left out on gRPC and TCP ports), `upgrade` for a WebSocket, or package.Service/Method
    pub(crate) method: Option<String>,
    /// A path; with a query, or a question mark for an empty one, where policies read that
    pub(crate) path: Option<String>,
    /// The port, where the target has several
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The address that the caller connects from
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,
    /// The host that the request names
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// A header field of the request, or NAME alone for one that is not sent; may be repeated
    #[arg(long = "header", value_name = "NAME[=VALUE]")]
    pub(crate) headers: Vec<String>,
    /// When: an instant, or a duration before now
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// How old the caller's certificate is
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) certificate_age: Option<Duration>,
    /// The user that the request is made for, of a JwtIssuer
    #[arg(long, value_name = "USER@ISSUER")]
    pub(crate) user: Option<String>,
    /// What the user's token claims besides: a JSON object
    #[arg(long, value_name = "JSON", requires = "user")]
    pub(crate) claims: Option<String>,
    /// A virtual node, or gateway/NAME, that passed the user on before the caller did; may be repeated
    #[arg(long = "actor", value_name = "NODE", requires = "user")]
    pub(crate) actors: Vec<String>,
    /// The request is made for no user
    #[arg(long, conflicts_with = "user")]
    pub(crate) without_user: bool,
    /// What the caller's key exchange uses, such as X25519MLKEM768
    #[arg(long, value_name = "GROUP")]
    pub(crate) tls_group: Option<String>,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    Text,
    Json,
}

/// `explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// What the denied caller was given, in the `hauberk-decision` header or by tap; or a kind of resource or a field
    /// of it: virtualnode.spec.listeners
    #[arg(value_name = "DECISION|KIND[.FIELD]", add = ArgValueCandidates::new(resource_words))]
    pub(crate) subject: String,
    /// How to show a decision
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// `tap`
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// Only calls from this virtual node, gateway/NAME, or SPIFFE id
    #[arg(long, value_name = "CALLER", add = ArgValueCandidates::new(caller_names))]
    pub(crate) from: Option<String>,
    /// Only calls to this virtual node or service, SPIFFE id, external/NAME, or host that none has
    #[arg(long, value_name = "TARGET", add = ArgValueCandidates::new(node_names))]
    pub(crate) to: Option<String>,
    /// Only what is denied
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only this HTTP method, or call, connect
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    pub(crate) path: Option<String>,
    /// How to show it: JSON is one object a line
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}
