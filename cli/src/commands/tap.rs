//! `hauberk tap`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{ListInstancesRequest, ObserveRequest};
use hauberk_proto::agent::v1::{Decision, Verdict};
use owo_colors::OwoColorize as _;

use crate::arguments::{Global, Tap, TextFormat};
use crate::commands::decision;
use crate::documents::{Defaults, to_json_line, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Runs the command, until it is stopped or the control plane ends.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn run(global: &Global, arguments: Tap) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    if let Some(mesh) = session.named_mesh() {
        check_heard(&session, mesh).await?;
    }
    let request = ObserveRequest {
        mesh: session.named_mesh().unwrap_or_default().to_owned(),
        caller: arguments.from.unwrap_or_default(),
        target: arguments.to.unwrap_or_default(),
        verdict: if arguments.denied { Verdict::Deny } else { Verdict::Unspecified }.into(),
        action: arguments.method.unwrap_or_default(),
        path_prefix: arguments.path.unwrap_or_default(),
    };
    let mut stream = session.flows().observe(request).await?.into_inner();
    if output::is_interactive() {
        output::note("watching; Ctrl-C ends");
    }
    let mut dropped = 0;
    while let Some(batch) = stream.message().await? {
        for decision in &batch.decisions {
            match arguments.output {
                TextFormat::Text => output::line(line(decision, session.of_context()))?,
                TextFormat::Json => {
                    output::line(to_json_line(&tree_of(
                        "hauberk.agent.v1.Decision",
                        decision,
                        Defaults::Show,
                    )))?;
                }
            }
        }
        if batch.dropped > dropped {
            output::note(format_args!("{} more were not shown: too many a second", batch.dropped - dropped));
            dropped = batch.dropped;
        }
    }
    Err(CommandError::failed("the control plane ended the stream: it is probably stopping"))
}

/// Fails for a mesh of which nothing would ever be shown: there is none, nor an instance that one has left behind.
async fn check_heard(session: &Session, mesh: &str) -> Result<(), CommandError> {
    let request = ListInstancesRequest { mesh: mesh.to_owned(), node: String::new() };
    if session.identities().list_instances(request).await?.into_inner().instances.is_empty() {
        session.check_mesh(mesh).await?;
    }
    Ok(())
}

/// `15:04:05.123 ALLOWED web → orders:8080 GET /orders/1 200 1.2ms allow-web-to-orders`
fn line(made: &Decision, of_context: &str) -> String {
    let at = format!("{:.3}", UnixMillis(made.at_unix_ms));
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time).trim_end_matches('Z');
    let mut out = format!(
        "{} {} {} → {} {}",
        time.dimmed(),
        decision::verdict(made.verdict()),
        decision::caller_name(&made.caller, &made.node).bold(),
        decision::target(made).bold(),
        decision::act(made)
    );
    if let Some(answer) = decision::answer(made) {
        out.push_str(&format!(" {answer}"));
    }
    if made.duration_us > 0 {
        out.push_str(&format!(
            " {:.1}ms",
            std::time::Duration::from_micros(made.duration_us).as_secs_f64() * 1000.0
        ));
    }
    if made.verdict() == Verdict::Allow {
        out.push_str(&format!(" {}", output::printable(&made.policies.join(",")).dimmed()));
    } else {
        out.push_str(&format!(": {}", decision::reason(made)));
    }
    if !made.id.is_empty() {
        out.push_str(&format!("  hauberk explain {}{of_context}", output::printable(&made.id)));
    }
    if made.audit_verdict() != Verdict::Unspecified && made.audit_verdict() != made.verdict() {
        out.push_str(&format!("  (audited policies: {})", decision::verdict(made.audit_verdict())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_it_all() {
        let denied = Decision {
            id: "abcdefghij-x1".to_owned(),
            at_unix_ms: 1_700_000_000_123,
            caller: "spiffe://shop.local/mesh/shop/node/intruder".to_owned(),
            node: "spiffe://shop.local/mesh/shop/node/payments".to_owned(),
            port: 8080,
            action: "POST".to_owned(),
            path: "/charge\u{1b}[2J".to_owned(),
            verdict: Verdict::Deny.into(),
            reason: "no_policy_matched".to_owned(),
            status: 403,
            duration_us: 1250,
            ..Default::default()
        };
        insta::assert_snapshot!(anstream::adapter::strip_str(&line(&denied, "")).to_string());

        // HTTP's 200 would say the opposite of what became of a denied call.
        let call = Decision { action: "call".to_owned(), status: 200, grpc_status: Some(7), ..denied };
        let text = anstream::adapter::strip_str(&line(&call, " --context prod")).to_string();
        assert!(text.contains(" PERMISSION_DENIED (7) 1.2ms: "), "{text}");
        assert!(text.ends_with("  hauberk explain abcdefghij-x1 --context prod"), "{text}");
    }
}
