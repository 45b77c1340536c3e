//! `hauberk admin`

use hauberk_proto::admin::v1 as api;

use crate::arguments::{Admin, Global, Role};
use crate::clock;
use crate::commands::{get, token};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// Runs the command.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn run(global: &Global, command: Admin) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    match command {
        Admin::Create { name, roles } => {
            let roles = roles.into_iter().map(|role| api_role(role).into()).collect();
            let request = api::CreateAdminRequest { name: name.clone(), roles };
            let answer = session.admins().create_admin(request).await?.into_inner();
            output::line(&answer.login_token)?;
            let expires = times::until(answer.expires_at.as_ref(), clock::now());
            output::note(format_args!(
                "{name}'s login token is good for one login and expires {expires}; it is shown only now"
            ));
            output::note(
                "give it to them by a channel that you trust; they run, with the token on standard input:",
            );
            output::note(format_args!(
                "  hauberk login --server {} --root-fingerprint {}{}",
                session.context.server,
                answer.root_fingerprint,
                token::of_trust_domain(&answer.trust_domain)
            ));
            Ok(())
        }
        Admin::List { output } => get::admins(&session, output, None).await,
        Admin::Delete { name } => {
            session.admins().delete_admin(api::DeleteAdminRequest { name: name.clone() }).await?;
            output::line(format_args!("admin/{name} deleted"))
        }
    }
}

fn api_role(role: Role) -> api::Role {
    match role {
        Role::Viewer => api::Role::Viewer,
        Role::Editor => api::Role::Editor,
        Role::PolicyAdmin => api::Role::PolicyAdmin,
        Role::IdentityAdmin => api::Role::IdentityAdmin,
        Role::BoundaryAdmin => api::Role::BoundaryAdmin,
        Role::Owner => api::Role::Owner,
    }
}
