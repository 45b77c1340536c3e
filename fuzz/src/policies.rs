//! What requests ask for, and what is written of who may.

use hauberk_policy::{
    CanonicalPath, Effect, EscapedSlashes, Mode, PathPattern, PolicyDocument, PolicyTemplate, RouteTemplate,
    only_permits,
};

use crate::Target;
use crate::keys::{name, trust_domain};

/// A canonical path is canonical, and has nothing in it that a server may read in two ways.
pub(crate) fn request_path() -> Target {
    let seeds = ["/orders/1?a=b", "/orders/%7e1/x,y=1", "/a%2Fb/c", "*", "/%E2%82%AC/+"];
    Target::of_text("request_path", seeds, |text| {
        let mut is_read = false;
        for method in ["GET", "OPTIONS"] {
            for escaped in [EscapedSlashes::Reject, EscapedSlashes::Keep] {
                let Ok(path) = CanonicalPath::parse_with(method, text, escaped) else { continue };
                is_read = true;
                check_path(method, &path, escaped);
                if let Some(reading) = path.with_slashes() {
                    check_path(method, &reading, EscapedSlashes::Reject);
                }
            }
        }
        is_read
    })
}

fn check_path(method: &str, path: &CanonicalPath<'_>, escaped: EscapedSlashes) {
    let target = path.target();
    let again = CanonicalPath::parse_with(method, &target, escaped).expect("what is canonical is read");
    assert_eq!((again.path(), again.query()), (path.path(), path.query()), "canonical twice is otherwise");
    assert!(!again.was_rewritten());
    let text = path.path();
    if text == "*" {
        return;
    }
    assert!(text.starts_with('/') && text.is_ascii(), "{text:?}");
    assert!(!text.contains(['\\', '?', '#', '\0', ' ']), "{text:?}");
    let escapes = text.to_ascii_lowercase();
    assert!(!["%2e", "%5c", "%00", "%25"].iter().any(|escape| escapes.contains(escape)), "{text:?}");
    assert!(escaped == EscapedSlashes::Keep || !escapes.contains("%2f"), "{text:?}");
    let mut segments =
        text.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name));
    assert!(!segments.any(|segment| segment == "." || segment == ".."), "{text:?}");
}

/// A template that is read is spelt as it was read, and is held against any path.
pub(crate) fn route() -> Target {
    let seeds = [
        "GET /orders/{id}\n/orders/1",
        "GET,POST /orders/{id}.json\n/orders/1.json",
        "/shop.Orders/Get\n/shop.Orders/Get",
        "/orders/*\n/orders/1/items",
    ];
    Target::of_text("route", seeds, |text| {
        let (template, path) = text.split_once('\n').unwrap_or((text, "/"));
        let path = CanonicalPath::parse("GET", path);
        let _ = PathPattern::parse(template);
        let template = RouteTemplate::parse(template);
        if let Ok(template) = &template {
            let again = RouteTemplate::parse(template.as_str());
            assert_eq!(again.as_ref().map(RouteTemplate::as_str), Ok(template.as_str()));
            if let (Ok(again), Ok(path)) = (&again, &path) {
                assert_eq!(template.matches("GET", path), again.matches("GET", path));
            }
        }
        template.is_ok() && path.is_ok()
    })
}

/// A policy that is admitted is read again when it is stored, and what only permits forbids nothing.
pub(crate) fn policy() -> Target {
    let seeds = [
        r#"permit(principal == Node::"web", action == Action::"GET", resource in Service::"orders")
when { context.path like "/orders/*" && context.headers.hasTag("x-role") };"#,
        r#"@id("support") forbid(principal is Node, action, resource) unless { context has user &&
context.user in UserGroup::"login/support" };"#,
        r#"permit(principal == ?principal, action, resource in ?resource);"#,
    ];
    Target::of_text("policy", seeds, |text| {
        let mesh = || name("shop");
        let parsed = PolicyDocument::parse(mesh(), &trust_domain(), name("p"), Mode::Enforce, text);
        if parsed.is_ok() {
            let stored =
                PolicyDocument::parse_stored(mesh(), &trust_domain(), name("p"), Mode::Enforce, text);
            assert!(
                stored.is_ok_and(|stored| stored.outdated().is_empty()),
                "what is admitted is not read again"
            );
        }
        if only_permits(text) {
            assert!(parsed.as_ref().map_or(true, |parsed| {
                parsed.references().iter().all(|one| one.effect == Effect::Allow)
            }));
        }
        parsed.is_ok() || PolicyTemplate::parse(mesh(), &trust_domain(), text).is_ok()
    })
}
