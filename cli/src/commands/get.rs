//! `hauberk get`

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hauberk_identity::NodeName;
use hauberk_proto::admin::v1::{self as api, Instance};
use hauberk_proto::mesh::v1::{Kind, Resource};

use crate::arguments::{Get, Global};
use crate::clock;
use crate::commands::would_deny::Audited;
use crate::commands::{kind_and_name, names, rows};
use crate::documents::{Defaults, Tree, resource_tree, tree_of};
use crate::error::CommandError;
use crate::kinds::{self, Listed};
use crate::output::{self, Format};
use crate::session::Session;

/// How many certificates are shown, the latest: a page of the API.
const CERTIFICATES_SHOWN: usize = 100;

/// Runs the command.
///
/// # Errors
/// The kind is unknown, the name is not there, or what the control plane answers.
pub(crate) async fn run(global: &Global, arguments: Get) -> Result<(), CommandError> {
    let (kind, name) = kind_and_name(&arguments.kind, arguments.name.as_deref())?;
    let listed = kinds::listed(&kind).map_err(CommandError::Usage)?;
    let labels = selector(&arguments.selector)?;
    let session = Session::open(global).await?;
    let mesh = match listed {
        _ if arguments.all_meshes => String::new(),
        Listed::Resource(Kind::Mesh) | Listed::Admins | Listed::Certificates => String::new(),
        Listed::Instances | Listed::Tokens => session.named_mesh().unwrap_or_default().to_owned(),
        Listed::Resource(_) | Listed::All if name.is_some() => session.mesh().await?,
        Listed::Resource(_) | Listed::All => match session.mesh_if_any().await? {
            Some(mesh) => mesh,
            None => return nothing(arguments.output),
        },
    };
    match listed {
        Listed::Resource(kind) => resources(&session, &arguments, kind, &mesh, name, labels).await,
        Listed::All => all(&session, &arguments, &mesh, labels).await,
        Listed::Instances => instances(&session, arguments.output, &mesh, name.as_deref()).await,
        Listed::Tokens => tokens(&session, arguments.output, &mesh, name.as_deref()).await,
        Listed::Certificates => certificates(&session, arguments.output, &mesh, name.as_deref()).await,
        Listed::Admins => admins(&session, arguments.output, name.as_deref()).await,
    }
}

/// Of a control plane without a mesh: no failure, as with kubectl.
fn nothing(format: Format) -> Result<(), CommandError> {
    match format {
        Format::Table | Format::Wide => {
            output::note("No resources found: there is no mesh yet");
            Ok(())
        }
        Format::Name | Format::Yaml => Ok(()),
        Format::Json => output::trees(format, Vec::new(), false),
    }
}

async fn resources(
    session: &Session,
    arguments: &Get,
    kind: Kind,
    mesh: &str,
    name: Option<String>,
    labels: HashMap<String, String>,
) -> Result<(), CommandError> {
    let found = match &name {
        Some(name) if mesh.is_empty() && kind != Kind::Mesh => {
            let all = session.list(kind, "").await?;
            all.into_iter().filter(|resource| resource.name == *name).collect()
        }
        Some(name) => vec![session.get(kind, mesh, name).await?],
        None => {
            let request =
                api::ListRequest { kind: kind.into(), mesh: mesh.to_owned(), labels, ..Default::default() };
            session.list_all(request).await?
        }
    };
    if found.is_empty() {
        session.check_mesh(mesh).await?;
    }
    if found.is_empty() && matches!(arguments.output, Format::Table | Format::Wide) {
        let place = if mesh.is_empty() { String::new() } else { format!(" in mesh {mesh}") };
        output::note(format_args!("there is no {}{place}", kinds::said(kind)));
        return Ok(());
    }
    match arguments.output {
        Format::Table | Format::Wide if kind == Kind::Policy => {
            policies(session, &found, arguments.output == Format::Wide, mesh.is_empty()).await
        }
        Format::Table | Format::Wide => {
            table(kind, &found, arguments.output == Format::Wide, mesh.is_empty(), false)
        }
        Format::Name => names(&found),
        format => output::trees(format, found.iter().map(resource_tree).collect(), name.is_some()),
    }
}

/// Policies, with what those in mode audit would have denied.
async fn policies(
    session: &Session,
    found: &[Resource],
    wide: bool,
    show_mesh: bool,
) -> Result<(), CommandError> {
    let now = clock::now();
    let mut audited = BTreeMap::new();
    for mesh in found.iter().map(|policy| &policy.mesh).collect::<BTreeSet<_>>() {
        audited.insert(mesh, Audited::of(session, mesh).await?);
    }
    let mut headers = if show_mesh { vec!["MESH", "NAME"] } else { vec!["NAME"] };
    headers.extend(rows::headers(Kind::Policy, wide));
    // Beside the mode, which it tells about.
    let place = headers.iter().position(|header| *header == "MODE").map_or(headers.len(), |mode| mode + 1);
    headers.insert(place, "WOULD DENY");
    let rows = found.iter().map(|policy| {
        let mut row = if show_mesh { vec![policy.mesh.clone()] } else { Vec::new() };
        row.push(policy.name.clone());
        row.extend(rows::cells(policy, wide, now));
        let told = audited.get(&policy.mesh).map(|audited| audited.of_policy(&policy.name, now));
        row.insert(place.min(row.len()), told.unwrap_or_else(|| "-".to_owned()));
        row
    });
    output::raw(&table_of(wide, &headers, rows.collect()))?;
    for remark in audited.values().flat_map(|audited| audited.remarks(now)) {
        output::note(remark);
    }
    Ok(())
}

async fn all(
    session: &Session,
    arguments: &Get,
    mesh: &str,
    labels: HashMap<String, String>,
) -> Result<(), CommandError> {
    let request = api::ListRequest { mesh: mesh.to_owned(), labels, ..Default::default() };
    let found = session.list_all(request).await?;
    if found.is_empty() && !matches!(arguments.output, Format::Table | Format::Wide) {
        session.check_mesh(mesh).await?;
    }
    match arguments.output {
        Format::Name => return names(&found),
        Format::Json | Format::Yaml => {
            return output::trees(arguments.output, found.iter().map(resource_tree).collect(), false);
        }
        Format::Table | Format::Wide => {}
    }
    let wide = arguments.output == Format::Wide;
    for kind in kinds::RESOURCES.iter().map(|name| name.kind) {
        let some: Vec<Resource> =
            found.iter().filter(|resource| kinds::kind_of(resource) == kind).cloned().collect();
        if !some.is_empty() {
            table(kind, &some, wide, mesh.is_empty(), true)?;
            output::line("")?;
        }
    }
    instances(session, arguments.output, mesh, None).await
}

fn table(
    kind: Kind,
    found: &[Resource],
    wide: bool,
    show_mesh: bool,
    show_kind: bool,
) -> Result<(), CommandError> {
    let now = clock::now();
    let show_mesh = show_mesh && kind != Kind::Mesh;
    let mut headers = if show_mesh { vec!["MESH", "NAME"] } else { vec!["NAME"] };
    headers.extend(rows::headers(kind, wide));
    let rows = found.iter().map(|resource| {
        let mut row = if show_mesh { vec![resource.mesh.clone()] } else { Vec::new() };
        row.push(if show_kind { kinds::label(resource) } else { resource.name.clone() });
        row.extend(rows::cells(resource, wide, now));
        row
    });
    output::raw(&table_of(wide, &headers, rows.collect()))
}

fn table_of(wide: bool, headers: &[&str], rows: Vec<Vec<String>>) -> String {
    if wide { output::wide_table(headers, rows) } else { output::table(headers, rows) }
}

fn names(found: &[Resource]) -> Result<(), CommandError> {
    found.iter().try_for_each(|resource| output::line(kinds::label(resource)))
}

/// Instances of a mesh (empty: all), or of one node, one id, or one token.
pub(crate) async fn instances(
    session: &Session,
    format: Format,
    mesh: &str,
    name: Option<&str>,
) -> Result<(), CommandError> {
    let request = api::ListInstancesRequest { mesh: mesh.to_owned(), node: String::new() };
    let mut found = session.identities().list_instances(request).await?.into_inner().instances;
    // Those of a mesh that was deleted are listed as long as there are any.
    if found.is_empty() {
        session.check_mesh(mesh).await?;
    }
    if let Some(name) = name {
        found.retain(|instance| {
            let Instance { id, node, token_id, .. } = instance;
            [id, node, token_id].into_iter().any(|is| is == name)
        });
        if found.is_empty() {
            return Err(CommandError::failed(format!(
                "there is no instance `{name}`, and no node, gateway (gateway/NAME) or token of that name with instances"
            )));
        }
    }
    let now = clock::now();
    let wide = format == Format::Wide;
    let rows = found.iter().map(|instance| rows::instance(instance, wide, now)).collect();
    let trees = found.iter().map(|item| tree_of("hauberk.admin.v1.Instance", item, Defaults::Show)).collect();
    let ids = found.iter().map(|instance| format!("instance/{}", instance.id)).collect();
    show(format, "instance", &rows::instance_headers(wide), rows, trees, ids)
}

/// Tokens of a mesh (empty: all), or the one with an id.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn tokens(
    session: &Session,
    format: Format,
    mesh: &str,
    id: Option<&str>,
) -> Result<(), CommandError> {
    let request = api::ListTokensRequest { mesh: mesh.to_owned() };
    let mut found = session.identities().list_tokens(request).await?.into_inner().tokens;
    if found.is_empty() {
        session.check_mesh(mesh).await?;
    }
    found.retain(|token| id.is_none_or(|id| token.id == id));
    let now = clock::now();
    let rows = found.iter().map(|token| rows::token(token, now)).collect();
    let trees = found.iter().map(|item| tree_of("hauberk.admin.v1.Token", item, Defaults::Show)).collect();
    let ids = found.iter().map(|token| format!("token/{}", token.id)).collect();
    show(format, "token", &rows::TOKEN_HEADERS, rows, trees, ids)
}

/// Every admin, or the one of that name.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn admins(
    session: &Session,
    format: Format,
    name: Option<&str>,
) -> Result<(), CommandError> {
    let mut found = session.admins().list_admins(api::ListAdminsRequest {}).await?.into_inner().admins;
    found.retain(|admin| name.is_none_or(|name| admin.name == name));
    let now = clock::now();
    let rows = found.iter().map(|admin| rows::admin(admin, now)).collect();
    let trees = found.iter().map(|item| tree_of("hauberk.admin.v1.Admin", item, Defaults::Show)).collect();
    let ids = found.iter().map(|admin| format!("admin/{}", admin.name)).collect();
    show(format, "admin", &rows::ADMIN_HEADERS, rows, trees, ids)
}

async fn certificates(
    session: &Session,
    format: Format,
    mesh: &str,
    name: Option<&str>,
) -> Result<(), CommandError> {
    let mut of_mesh = String::new();
    let spiffe_id = match name.map(|name| holder(name, &session.context.trust_domain)).transpose()? {
        Some(Holder::Id(id)) => id,
        Some(Holder::Node(node)) => {
            let mesh = if mesh.is_empty() { session.mesh().await? } else { mesh.to_owned() };
            let (trust_domain, name) = session.names(&mesh)?;
            of_mesh = mesh;
            node.spiffe_id(&trust_domain, &name).to_string()
        }
        None => String::new(),
    };
    let mut request = api::ListCertificatesRequest { spiffe_id, ..Default::default() };
    let (mut found, mut has_more) = (Vec::new(), true);
    // Among many certificates a page may hold few of those that are wanted.
    while has_more && found.len() < CERTIFICATES_SHOWN {
        let answer = session.identities().list_certificates(request.clone()).await?.into_inner();
        found.extend(answer.certificates);
        has_more = !answer.next_page_token.is_empty();
        request.page_token = answer.next_page_token;
    }
    if found.is_empty() {
        session.check_mesh(&of_mesh).await?;
    }
    let now = clock::now();
    let rows = found.iter().map(|certificate| {
        let mut row = rows::certificate(certificate, now);
        if let Some(id) = row.get_mut(1).filter(|_| format != Format::Wide) {
            *id = names::short(id, &session.context.trust_domain);
        }
        row
    });
    let trees = found
        .iter()
        .map(|item| tree_of("hauberk.admin.v1.IssuedCertificate", item, Defaults::Show))
        .collect();
    let ids = found.iter().map(|certificate| format!("certificate/{}", certificate.serial)).collect();
    show(format, "certificate", &rows::CERTIFICATE_HEADERS, rows.collect(), trees, ids)?;
    if has_more {
        output::note(format_args!(
            "these are the latest; name a node to see only its own: hauberk get certificates NODE{}",
            session.of_context()
        ));
    }
    Ok(())
}

/// Whose certificates are meant.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// Of whom this is the SPIFFE id.
    Id(String),
    /// Of a node or gateway of the mesh.
    Node(NodeName),
}

/// Understands an id, its path as the table shows it, `web`, or `gateway/edge`.
fn holder(name: &str, trust_domain: &str) -> Result<Holder, CommandError> {
    if name.starts_with("spiffe:") {
        return Ok(Holder::Id(name.to_owned()));
    }
    // No other name of a node has a slash, and no path of an id begins so.
    if name.contains('/') && !name.starts_with("gateway/") {
        return Ok(Holder::Id(names::full(name, trust_domain)));
    }
    let node = NodeName::parse(name).map_err(|error| CommandError::Usage(error.to_string()))?;
    Ok(Holder::Node(node))
}

/// Shows a list in any format.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn show(
    format: Format,
    kind: &str,
    headers: &[&str],
    rows: Vec<Vec<String>>,
    trees: Vec<Tree>,
    names: Vec<String>,
) -> Result<(), CommandError> {
    match format {
        Format::Table | Format::Wide if rows.is_empty() => {
            output::note(format_args!("there is no {kind}"));
            Ok(())
        }
        Format::Table | Format::Wide => output::raw(&table_of(format == Format::Wide, headers, rows)),
        Format::Name => names.iter().try_for_each(output::line),
        format => output::trees(format, trees, false),
    }
}

fn selector(words: &[String]) -> Result<HashMap<String, String>, CommandError> {
    words
        .iter()
        .flat_map(|word| word.split(','))
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok((key.to_owned(), value.trim_start_matches('=').to_owned()))
            }
            _ => Err(CommandError::Usage(format!("`{word}` is no label: write -l KEY=VALUE"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;

    use super::*;

    #[test]
    fn whoever_the_table_of_certificates_shows_can_be_asked_for() {
        let told = |name: &str| holder(name, "shop.example").map_err(|error| error.to_string());
        for path in [
            "mesh/shop/node/web",
            "mesh/shop/gateway/edge",
            "workload/batch",
            "workload/jobs/batch",
            "admin/anna",
            "control-plane/r1",
        ] {
            assert_eq!(told(path), Ok(Holder::Id(format!("spiffe://shop.example/{path}"))));
            assert_eq!(names::short(&format!("spiffe://shop.example/{path}"), "shop.example"), path);
        }
        let theirs = "spiffe://partner.example/workload/batch";
        assert_eq!(told(theirs), Ok(Holder::Id(theirs.to_owned())));
        let name = |text: &str| Name::parse(text).unwrap();
        assert_eq!(told("web"), Ok(Holder::Node(NodeName::Node(name("web")))));
        assert_eq!(told("gateway/edge"), Ok(Holder::Node(NodeName::Gateway(name("edge")))));
        assert!(told("no node").is_err());
    }
}
