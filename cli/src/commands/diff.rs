//! `hauberk diff`

use hauberk_proto::admin::v1::Outcome;
use hauberk_proto::mesh::v1::Resource;
use owo_colors::OwoColorize as _;
use similar::{ChangeTag, TextDiff};

use crate::arguments::{Diff, Global};
use crate::commands::{apply, left_out};
use crate::documents::{self, resource_tree, to_yaml};
use crate::error::CommandError;
use crate::kinds;
use crate::output;
use crate::session::Session;

/// What a trouble exits with: 1 means "differs".
const TROUBLE: u8 = 2;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where something differs, `Exit(2)` after a failure.
pub(crate) async fn run(global: &Global, arguments: Diff) -> Result<(), CommandError> {
    match compare(global, arguments).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(CommandError::Exit(1)),
        Err(error) => Err(error.exiting(TROUBLE, &global.of_context())),
    }
}

async fn compare(global: &Global, arguments: Diff) -> Result<bool, CommandError> {
    let documents = documents::read(&arguments.files, global.mesh.as_deref())?;
    let session = Session::open(global).await?;
    // The control plane compares, so that what means the same is the same.
    let answer = apply::send(&session, documents, true).await?;
    let mut differs = false;
    for applied in answer.resources {
        let (Some(resource), false) = (applied.resource.as_ref(), applied.outcome() == Outcome::Unchanged)
        else {
            continue;
        };
        let before = match &applied.previous {
            Some(previous) => text(previous),
            None if applied.outcome() == Outcome::Configured => {
                text(&left_out::previous(&session, resource).await?)
            }
            None => String::new(),
        };
        let after = text(resource);
        if before != after {
            differs = true;
            output::raw(&unified(&kinds::label(resource), &before, &after))?;
        }
    }
    for warning in &answer.warnings {
        output::note(format_args!("{} {}", "warning:".yellow().bold(), output::printable(warning)));
    }
    Ok(differs)
}

fn text(resource: &Resource) -> String {
    let bare = Resource { metadata: None, ..resource.clone() };
    to_yaml(&resource_tree(&bare))
}

fn unified(label: &str, before: &str, after: &str) -> String {
    let old = if before.is_empty() { "/dev/null".to_owned() } else { format!("live/{label}") };
    let mut out = format!("{}\n{}\n", format!("--- {old}").bold(), format!("+++ new/{label}").bold());
    let diff = TextDiff::from_lines(before, after);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        out.push_str(&format!("{}\n", hunk.header().to_string().cyan()));
        for change in hunk.iter_changes() {
            let line = change.to_string();
            let line = line.trim_end_matches('\n');
            out.push_str(&match change.tag() {
                ChangeTag::Delete => format!("{}\n", format!("-{}", line.trim_start_matches('-')).red()),
                ChangeTag::Insert => format!("{}\n", format!("+{}", line.trim_start_matches('+')).green()),
                ChangeTag::Equal => format!(" {}\n", line),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        let shown =
            unified("policy/p", "kind: Policy\n- name: p\nmode: A\n", "kind: Policy\n- name: p\nmode: B\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&shown).to_string());
    }
}
