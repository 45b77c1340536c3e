//! `hauberk who-can` and `hauberk what-can`

use hauberk_proto::admin::v1::{Prospect, WhatCanRequest, WhoCanRequest};

use crate::arguments::{Global, TableFormat, WhatCan, WhoCan};
use crate::commands::prospect::{self, Notes};
use crate::documents::{Defaults, Tree, tree_of};
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::session::Session;

/// Runs `who-can`.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn who_can(global: &Global, arguments: WhoCan) -> Result<(), CommandError> {
    let (method, path) = match (arguments.method, arguments.path) {
        // `who-can orders '/orders/*'` and `who-can orders 'shop.Orders/*'`
        (Some(path), None) if path.contains('/') => (String::new(), path),
        (method, path) => (method.unwrap_or_default(), path.unwrap_or_default()),
    };
    prospect::method_note(&method).into_iter().for_each(output::note);
    let session = Session::open(global).await?;
    let request = WhoCanRequest {
        mesh: session.mesh().await?,
        target: arguments.target,
        port: arguments.port.map_or(0, u32::from),
        method,
        path,
        include_never: arguments.all,
        ..WhoCanRequest::default()
    };
    let found = all_pages(&session, request).await?;
    let nobody = "nobody: no caller can do that (--all shows why for each)";
    let columns = callers(&found);
    show(arguments.output, found, &columns, nobody)
}

/// All that is answered, page by page.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn all_pages(
    session: &Session,
    mut request: WhoCanRequest,
) -> Result<Vec<Prospect>, CommandError> {
    let mut found = Vec::new();
    loop {
        let page = session.policies().who_can(request.clone()).await?.into_inner();
        found.extend(page.prospects);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// Runs `what-can`.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn what_can(global: &Global, arguments: WhatCan) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let mut request = WhatCanRequest {
        mesh: session.mesh().await?,
        caller: arguments.caller,
        include_never: arguments.all,
        page_token: String::new(),
    };
    let mut found = Vec::new();
    loop {
        let page = session.policies().what_can(request.clone()).await?.into_inner();
        found.extend(page.prospects);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let nothing = "nothing: no policy lets it call anything (--all shows why for each)";
    show(arguments.output, found, &[("TARGET", prospect::target)], nothing)
}

/// A title, and what stands below it.
type Column = (&'static str, fn(&Prospect) -> String);

/// Who calls; and what, where that is several ports, of which each has its own answer.
fn callers(found: &[Prospect]) -> Vec<Column> {
    let called = |one: &Prospect| (one.node.clone(), one.external.clone(), one.port);
    let is_one = found.windows(2).all(|pair| matches!(pair, [one, next] if called(one) == called(next)));
    let target: &[Column] = if is_one { &[] } else { &[("TARGET", prospect::target)] };
    [&[("CALLER", prospect::caller as fn(&Prospect) -> String)][..], target].concat()
}

fn show(format: TableFormat, found: Vec<Prospect>, first: &[Column], none: &str) -> Result<(), CommandError> {
    let trees = |found: &[Prospect]| -> Vec<Tree> {
        found.iter().map(|one| tree_of("hauberk.admin.v1.Prospect", one, Defaults::Omit)).collect()
    };
    match format {
        TableFormat::Json => output::trees(Format::Json, trees(&found), false),
        TableFormat::Yaml => output::trees(Format::Yaml, trees(&found), false),
        TableFormat::Table if found.is_empty() => {
            output::note(none);
            Ok(())
        }
        TableFormat::Table => output::raw(&table(&found, first)),
    }
}

/// One row for all actions of which the same is to be said, and the conditions below.
fn table(found: &[Prospect], first: &[Column]) -> String {
    let mut rows: Vec<(Prospect, Vec<String>)> = Vec::new();
    for prospect in found {
        let action = prospect::action(prospect);
        let nameless = Prospect { action: String::new(), method: String::new(), ..prospect.clone() };
        match rows.iter_mut().rev().take(64).find(|(former, _)| *former == nameless) {
            Some((_, actions)) => actions.push(action),
            None => rows.push((nameless, vec![action])),
        }
    }
    let mut notes = Notes::default();
    let rows = rows.iter().map(|(prospect, actions)| {
        let of_all = [
            actions.join(","),
            prospect::route(prospect),
            prospect::word(prospect.outlook()).to_owned(),
            notes.grounds(prospect),
        ];
        first.iter().map(|(_, column)| column(prospect)).chain(of_all).collect()
    });
    let rows = rows.collect();
    let titles = first.iter().map(|(title, _)| *title).chain(["ACTIONS", "ROUTE", "MAY", "BY"]);
    output::table(&titles.collect::<Vec<_>>(), rows) + &notes.text()
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::{Clause, Outlook};

    use super::*;

    #[test]
    fn what_is_alike_stands_in_one_row() {
        let of = |action: &str, outlook: Outlook| Prospect {
            caller: "spiffe://shop.example/mesh/shop/node/web".to_owned(),
            node: "spiffe://shop.example/mesh/shop/node/orders".to_owned(),
            port: 8080,
            action: action.to_owned(),
            route: "/orders/{id}".to_owned(),
            outlook: outlook.into(),
            reason: "permitted".to_owned(),
            policies: vec!["web-reads".to_owned()],
            ..Prospect::default()
        };
        let part = Prospect {
            policies: Vec::new(),
            permits: vec![Clause {
                policy: "web-writes".to_owned(),
                conditions: vec!["context.path == \"/orders/1\"".to_owned()],
                ..Clause::default()
            }],
            forbids: vec![Clause {
                policy: "frozen".to_owned(),
                conditions: vec!["context.host == \"x\"".to_owned()],
                held: vec!["team of the caller is \"stock\"".to_owned()],
            }],
            denied_where: vec!["the query can be read in more than one way".to_owned()],
            ..of("POST", Outlook::Conditional)
        };
        let found = [of("GET", Outlook::Always), of("HEAD", Outlook::Always), part];
        insta::assert_snapshot!(table(&found, &callers(&found)));
        // Of several ports each row says which one it is about.
        let admin = Prospect { port: 9090, ..of("GET", Outlook::Never) };
        let found = [of("GET", Outlook::Always), admin];
        let told = table(&found, &callers(&found));
        let rows: Vec<Vec<&str>> =
            told.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        assert_eq!(rows, [["CALLER", "TARGET"], ["web", "orders:8080"], ["web", "orders:9090"]]);
    }
}
