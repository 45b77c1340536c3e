//! `hauberk policy diff`

use hauberk_proto::admin::v1::{DiffRequest, Difference, Outlook, Prospect};

use crate::arguments::{Global, PolicyDiff, TableFormat};
use crate::commands::draft::Draft;
use crate::commands::prospect::{self, Notes};
use crate::documents::{Defaults, Tree, to_json, to_yaml, tree_of};
use crate::error::CommandError;
use crate::output;

/// What a trouble exits with: 1 means "differs".
const TROUBLE: u8 = 2;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where something would change for somebody, or might and is not compared; `Exit(2)` after a failure.
pub(crate) async fn run(global: &Global, arguments: PolicyDiff) -> Result<(), CommandError> {
    match compare(global, arguments).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(CommandError::Exit(1)),
        Err(error) => Err(error.exiting(TROUBLE, &global.of_context())),
    }
}

async fn compare(global: &Global, arguments: PolicyDiff) -> Result<bool, CommandError> {
    let (draft, session) = Draft::read(global, &arguments.files, &arguments.deleted).await?;
    let (mut differences, mut compared, mut not_compared) = (Vec::new(), 0, Vec::new());
    for mesh in draft.meshes() {
        let (resources, removed) = (draft.resources(), draft.removed.clone());
        let mut request = DiffRequest { resources, mesh, page_token: String::new(), removed };
        loop {
            let page = session.policies().diff(request.clone()).await;
            let page = page.map_err(|status| draft.refused(status))?.into_inner();
            draft.check_removed(page.removed)?;
            differences.extend(page.differences);
            compared += page.compared;
            not_compared.extend(page.not_compared);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    }
    match arguments.output {
        TableFormat::Json => output::raw(&to_json(&tree(&differences, &not_compared)))?,
        TableFormat::Yaml => output::raw(&to_yaml(&tree(&differences, &not_compared)))?,
        TableFormat::Table if differences.is_empty() => {}
        TableFormat::Table => output::raw(&table(&differences))?,
    }
    match (differences.is_empty(), not_compared.is_empty()) {
        (true, true) if arguments.output == TableFormat::Table => {
            output::note(format_args!("nothing would change for anybody ({compared} cells looked at)"));
        }
        (_, true) => {}
        (_, false) => output::note("for whom this would change something is not compared:"),
    }
    not_compared.iter().for_each(|what| output::note(format_args!("  {}", output::printable(what))));
    Ok(!differences.is_empty() || !not_compared.is_empty())
}

/// For programs, the same in JSON and YAML.
fn tree(differences: &[Difference], not_compared: &[String]) -> Tree {
    let items = differences.iter().map(|one| tree_of("hauberk.admin.v1.Difference", one, Defaults::Omit));
    let all = [("items", items.collect()), ("notCompared", not_compared.iter().map(Tree::text).collect())];
    Tree::map(all.map(|(field, values)| (field, Tree::List(values))))
}

/// One row for all actions of which the same is to be said, and the conditions below.
fn table(differences: &[Difference]) -> String {
    let nameless = |prospect: &Option<Prospect>| {
        let without =
            |one: &Prospect| Prospect { action: String::new(), method: String::new(), ..one.clone() };
        prospect.as_ref().map(without)
    };
    let mut rows: Vec<(Difference, Vec<String>)> = Vec::new();
    for difference in differences {
        let Some(either) = difference.after.as_ref().or(difference.before.as_ref()) else { continue };
        let action = prospect::action(either);
        let bare = Difference { before: nameless(&difference.before), after: nameless(&difference.after) };
        match rows.iter_mut().rev().take(64).find(|(former, _)| *former == bare) {
            Some((_, actions)) => actions.push(action),
            None => rows.push((bare, vec![action])),
        }
    }
    let mut notes = Notes::default();
    let rows: Vec<_> =
        rows.iter().filter_map(|(difference, actions)| row(difference, actions, &mut notes)).collect();
    output::table(&["CALLER", "TARGET", "ACTIONS", "ROUTE", "BEFORE", "AFTER"], rows) + &notes.text()
}

fn row(difference: &Difference, actions: &[String], notes: &mut Notes) -> Option<Vec<String>> {
    let Difference { before, after } = difference;
    let either = after.as_ref().or(before.as_ref())?;
    let mut told = |prospect: &Option<Prospect>| match prospect {
        Some(prospect) => {
            let word = prospect::word(prospect.outlook());
            let grounds = notes.grounds(prospect);
            if prospect.outlook() == Outlook::Never {
                format!("never ({grounds})")
            } else {
                format!("{word} {grounds}")
            }
        }
        // What is not there is never let through.
        None => "never (there is no such thing)".to_owned(),
    };
    Some(vec![
        prospect::caller(either),
        prospect::target(either),
        actions.join(","),
        prospect::route(either),
        told(before),
        told(after),
    ])
}
