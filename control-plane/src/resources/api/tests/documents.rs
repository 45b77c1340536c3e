//! OpenAPI documents as large public interfaces write them.

use super::*;

fn sorted(found: Result<Vec<String>, Vec<String>>) -> Vec<String> {
    let mut found: Vec<_> =
        found.unwrap().into_iter().map(|route| route.trim_end_matches(" []").to_owned()).collect();
    found.sort();
    found
}

fn told(text: &str) -> String {
    openapi(text).unwrap_err().remove(0).replace("spec.listeners[0].api.openapi: ", "")
}

/// A document with these lines below `openapi: 3.1.0`.
fn document(rest: &str) -> String {
    format!("openapi: 3.1.0\ninfo: {{title: t, version: '1'}}\n{rest}")
}

#[test]
fn a_pet_store_by_openapi_3_0() {
    let text = r##"
openapi: "3.0.4"
info: {title: Pets, version: 1.0.0, license: {name: MIT}, x-logo: {url: 'https://pets.example/logo.png'}}
externalDocs: {url: 'https://pets.example/docs'}
servers:
  - url: https://pets.example/api/v3
    description: all of it
tags: [{name: pet}]
paths:
  /pet:
    post: {operationId: addPet, requestBody: {$ref: '#/components/requestBodies/Pet'}, responses: {'200': {description: ok}}}
    put: {operationId: updatePet, responses: {200: {description: ok}, default: {description: no}}}
  /pet/findByStatus:
    get: {parameters: [{name: status, in: query, schema: {type: string, default: available}}], responses: {}}
  /pet/{petId}:
    parameters: [{$ref: '#/components/parameters/petId'}]
    get: {security: [{api_key: []}], responses: {}}
    delete: {deprecated: true, responses: {}}
  /store/order/:
    get: {responses: {}}
components: {schemas: {Pet: {type: object}}, securitySchemes: {api_key: {type: apiKey, in: header, name: api_key}}}
"##;
    let expected = [
        "DELETE,GET /api/v3/pet/{petId}",
        "GET /api/v3/pet/findByStatus",
        "GET /api/v3/store/order/",
        "POST,PUT /api/v3/pet",
    ];
    assert_eq!(sorted(openapi(text)), expected);
}

#[test]
fn several_parameters_in_one_segment_as_for_code() {
    let text = document(
        "servers: [{url: 'https://api.code.example'}]
webhooks:
  push: {post: {requestBody: {}}}
paths:
  /repos/{owner}/{repo}/compare/{base}...{head}: {get: {}}
  /repos/{owner}/{repo}/compare/{basehead}: {get: {}}
  /repos/{owner}/{repo}/{archive_format}/{ref}: {get: {}}
  /repos/{owner}/{repo}/tarball/{ref}: {get: {}}
  /search/issues.{format}: {get: {}}
  /users/{user.name}/gists: {get: {}}
x-webhooks: {push: {}}
",
    );
    let expected = [
        "GET /repos/{owner}/{repo}/compare/{basehead}",
        "GET /repos/{owner}/{repo}/compare/{base}...{head}",
        "GET /repos/{owner}/{repo}/tarball/{ref}",
        "GET /repos/{owner}/{repo}/{archive_format}/{ref}",
        "GET /search/issues.{format}",
        "GET /users/{user_name}/gists",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
}

#[test]
fn paths_as_for_clusters_payments_and_custom_methods() {
    let text = document(
        "paths:
  /api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}:
    parameters: [{name: path, in: path, required: true, allowReserved: true}]
    get: {}
    head: {}
    options: {}
    patch: {}
  /apis/batch/v1/watch/namespaces/{namespace}/jobs: {get: {}}
  /.well-known/openid-configuration/: {get: {}}
  /v1/invoices/{invoice}/lines: {get: {}}
  /v1/{name}:cancel: {post: {}}
  '/v1/projects/{project}/topics/{topic}:publish': {post: {}}
  '/v1/projects/{project}/topics:batchGet': {get: {}}
  /v{version}/status: {get: {}}
  '/odata/Products({id})': {get: {}}
  '/odata/Rates(from={from},to={to})': {get: {}}
",
    );
    let expected = [
        "GET /.well-known/openid-configuration/",
        "GET /apis/batch/v1/watch/namespaces/{namespace}/jobs",
        "GET /odata/Products({id})",
        "GET /odata/Rates(from={from},to={to})",
        "GET /v1/invoices/{invoice}/lines",
        "GET /v1/projects/{project}/topics:batchGet",
        "GET /v{version}/status",
        "GET,HEAD,OPTIONS,PATCH /api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}",
        "POST /v1/projects/{project}/topics/{topic}:publish",
        "POST /v1/{name}:cancel",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
}

#[test]
fn gateways_greedy_parameters_are_the_rest() {
    let text = document(
        "servers: [{url: 'https://id.gateway.example/{basePath}', variables: {basePath: {default: /prod}}}]
paths:
  /: {get: {}}
  /{proxy+}:
    x-amazon-apigateway-any-method: {x-amazon-apigateway-integration: {type: http_proxy}}
    options: {x-hauberk-data-classes: [pii]}
  /files/{file.path+}: {get: {}}
  '/old/{number:[0-9]+}': {get: {}}
",
    );
    // Exports write the variable's slash twice; by hand it is one.
    assert_eq!(openapi(&text), openapi(&text.replace("/prod", "prod")));
    let expected = [
        "/prod/{proxy...}",
        "GET /prod/",
        "GET /prod/files/{file_path...}",
        "GET /prod/old/{number__0-9__}",
        "OPTIONS /prod/{proxy...} [pii]",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
    for (path, expected) in [
        ("/{proxy+}/x", "\"{proxy...}\" matches the rest of the path, so it must be the last segment"),
        ("/x{proxy+}", "\"x{proxy...}\" holds no parameter"),
    ] {
        let found = told(&document(&format!("paths: {{'{path}': {{get: {{}}}}}}")));
        assert!(found.starts_with(&format!("paths.{path}: {expected}")), "{found}");
    }
}

#[test]
fn a_gateways_default_is_whatever_is_left() {
    let default = |operation: &str| {
        document(&format!(
            "servers: [{{url: 'https://id.gateway.example/{{basePath}}', variables: {{basePath: {{default: v1}}}}}}]
paths:
  /orders: {{get: {{}}}}
  /$default:
    x-amazon-apigateway-any-method: {{{operation}, x-hauberk-data-classes: [pii]}}
"
        ))
    };
    for is_default in ["isDefaultRoute: true", "isDefaultRoute: 'true'"] {
        assert_eq!(sorted(openapi(&default(is_default))), ["/v1/{default...} [pii]", "GET /v1/orders"]);
    }
    // Otherwise it is a path as any other.
    for is_none in ["isDefaultRoute: false", "isDefaultRoute: FALSE", "responses: {}"] {
        assert_eq!(sorted(openapi(&default(is_none))), ["/v1/$default [pii]", "GET /v1/orders"]);
    }
    assert_eq!(
        told(&default("isDefaultRoute: yes")),
        "paths./$default.x-amazon-apigateway-any-method.isDefaultRoute: it is neither true nor false: write one of these"
    );
}

#[test]
fn whether_a_parameter_is_several_segments_is_read_or_refused() {
    let of = |value: &str| {
        document(&format!(
            "paths:
  /files/{{path}}:
    parameters: [{{name: id, in: query}}, {{name: path, in: path, x-multi-segment: {value}}}]
    get: {{}}
"
        ))
    };
    assert_eq!(sorted(openapi(&of("true"))), ["GET /files/{path...}"]);
    for value in ["false", "False", "FALSE"] {
        assert_eq!(sorted(openapi(&of(value))), ["GET /files/{path}"], "{value}");
    }
    for value in ["True", "TRUE", "yes", "on", "1", "tRUE", "", "~", "[true]", "'true '"] {
        assert_eq!(
            told(&of(value)),
            "paths./files/{path}.parameters[1].x-multi-segment: it is neither true nor false: write one of these",
            "{value}"
        );
        assert_eq!(sorted(Ok(stored(&of(value)))), ["GET /files/{path}"], "{value}");
    }
    for value in ["true", "'true'"] {
        assert_eq!(sorted(Ok(stored(&of(value)))), ["GET /files/{path...}"], "{value}");
    }
    let json = |value: &str| {
        let parameter = format!(r#"{{"name": "path", "in": "path", "x-multi-segment": {value}}}"#);
        let item = format!(r#"{{"get": {{"parameters": [{parameter}]}}}}"#);
        format!(r#"{{"openapi": "3.1.0", "paths": {{"/files/{{path}}": {item}}}}}"#)
    };
    assert_eq!(sorted(openapi(&json("true"))), ["GET /files/{path...}"]);
    assert_eq!(
        told(&json("1")),
        "paths./files/{path}.get.parameters[0].x-multi-segment: it is neither true nor false: write one of these"
    );
}

#[test]
fn a_last_parameter_may_be_several_segments() {
    let text = document(
        "paths:
  /repos/{repo}/contents/{path}:
    parameters: [{name: repo, in: path}]
    get: {parameters: [{name: path, in: query}, {name: path, in: path, x-multi-segment: true}]}
    put: {parameters: [{$ref: '#/components/parameters/path'}], x-hauberk-data-classes: [pii]}
    delete: {parameters: [{name: path, in: path}]}
  /repos/{repo}/git/ref/{git.ref}:
    parameters: [{name: git.ref, in: path, x-multi-segment: 'true'}]
    get: {}
    head: {parameters: [{name: git.ref, in: path, x-multi-segment: false}]}
  /repos/{repo}/commits/{ref}/status: {get: {parameters: [{$ref: '#/components/parameters/ref'}]}}
  /old/{ref}: {get: {parameters: [{$ref: '#/components/parameters/none'}, {$ref: other.yaml}, null, a]}}
  /new/v{ref}: {get: {parameters: [{$ref: '#/components/parameters/ref'}]}}
components:
  parameters:
    path: {name: path, in: path, x-multi-segment: true}
    ref: {name: ref, in: path, x-multi-segment: true}
",
    );
    let expected = [
        "DELETE /repos/{repo}/contents/{path}",
        "GET /new/v{ref}",
        "GET /old/{ref}",
        "GET /repos/{repo}/commits/{ref}/status",
        "GET /repos/{repo}/contents/{path...}",
        "GET /repos/{repo}/git/ref/{git_ref...}",
        "HEAD /repos/{repo}/git/ref/{git_ref}",
        "PUT /repos/{repo}/contents/{path...} [pii]",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
}

#[test]
fn each_path_of_the_servers_has_its_routes() {
    let text = document(
        "servers: [{url: 'https://a.example/v1'}, {url: 'https://b.example/v1/'}, {url: /v2}, {url: '//c.example/v3?x'}]
paths:
  /orders: {get: {}, post: {}}
  /health:
    servers: [{url: 'https://a.example', description: without a version}]
    get: {}
    post:
      servers: [{url: /ops, name: of 3.2}, {url: https://a.example/}]
      x-hauberk-data-classes: [order]
    put: {x-hauberk-data-classes: [order]}
",
    );
    let expected = [
        "GET /health",
        "GET,POST /v1/orders",
        "GET,POST /v2/orders",
        "GET,POST /v3/orders",
        "POST /ops/health [order]",
        "POST,PUT /health [order]",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
    for (servers, expected) in [
        ("{}", "servers: it is not a list"),
        ("[{}]", "servers[0].url: it is missing"),
        ("[{url: v1}]", "servers[0].url: it begins where the document lies"),
        ("[{url: ../v1}]", "servers[0].url: it begins where the document lies"),
        ("[{url: '/{v'}]", "servers[0].url: a brace is not closed"),
        (
            "[{url: '/{v}', variables: {v: {default: '{w}'}}}]",
            "servers[0].url: its path must be one that requests have",
        ),
        ("[{url: '/a b'}]", "servers[0].url: its path must be one that requests have"),
        ("[{url: '/a;b'}]", "servers[0].url: \"a;b\" is not spelled"),
        ("[{url: '/a/*'}]", "servers[0].url: its path must be one that requests have"),
    ] {
        for (before, own) in [
            ("", document(&format!("servers: {servers}\npaths: {{}}"))),
            ("paths./a.", document(&format!("paths: {{/a: {{servers: {servers}, get: {{}}}}}}"))),
            ("paths./a.get.", document(&format!("paths: {{/a: {{get: {{servers: {servers}}}}}}}"))),
        ] {
            let found = told(&own);
            assert!(found.starts_with(&format!("{before}{expected}")), "{found}");
        }
    }
    assert_eq!(sorted(openapi(&document("servers: []\npaths: {/a: {get: {}}}"))), ["GET /a"]);
    let empty = told(&document("paths: {/a: {servers: [], get: {}}}"));
    assert!(empty.starts_with("paths./a.servers: it says none"), "{empty}");
    let many: Vec<_> = (0..33).map(|number| format!("{{url: /v{number}}}")).collect();
    let found = told(&document(&format!("servers: [{}]\npaths: {{/a: {{get: {{}}}}}}", many.join(", "))));
    assert_eq!(found, "servers: their URLs have 33 paths: at most 32");
}

#[test]
fn what_is_referred_to_stands_in_the_document() {
    let text = document(
        "paths:
  /orders/{id}: {$ref: '#/components/pathItems/order', summary: one of them, x-hauberk-data-classes: [order]}
  /old/{id}: {$ref: '#/paths/~1orders~1%7Bid%7D'}
components:
  pathItems:
    order:
      summary: an order
      get: {}
      delete: {$ref: '#/components/x-operations/delete'}
  x-operations:
    delete: {x-hauberk-data-classes: [pii]}
",
    );
    let expected = [
        "DELETE /old/{id} [order pii]",
        "DELETE /orders/{id} [order pii]",
        "GET /old/{id} [order]",
        "GET /orders/{id} [order]",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
    for (item, expected) in [
        ("$ref: orders.yaml#/a", "$ref: \"orders.yaml#/a\" is another document, and no other one is read"),
        ("$ref: 'https://a.example/a.json'", "$ref: \"https://a.example/a.json\" is another document"),
        ("$ref: '#order'", "$ref: \"#order\" is not understood: write a place such as"),
        ("$ref: '#/components/order'", "$ref: there is no \"#/components/order\" in the document"),
        ("$ref: '#/paths/~1a%7'", "$ref: there is no"),
        ("$ref: [1]", "$ref: it is not a text"),
        ("$ref: '#/paths/~1a'", "get: it stands here and in what is referred to: leave one"),
        ("$ref: '#/components/one'", "$ref: it leads through more than 8 references"),
        ("$ref: '#/components/text'", "it is not a mapping"),
    ] {
        let text = format!(
            "paths: {{/a: {{get: {{}}, {item}}}}}\ncomponents: {{text: a, one: {{$ref: '#/components/one'}}}}"
        );
        let (found, expected) = (told(&document(&text)), format!("paths./a.{expected}"));
        assert!(found.replace("paths./a: ", "paths./a.").starts_with(&expected), "{found}");
    }
    let outer = told(&document("paths: {$ref: paths.yaml}"));
    assert!(outer.starts_with("paths.$ref: paths stand in the document itself"), "{outer}");
    let large: String = (0..300).map(|number| format!("x-{number}: 1, ")).collect();
    let many: String =
        (0..900).map(|number| format!("  /p{number}: {{$ref: '#/components/large'}}\n")).collect();
    let found = told(&document(&format!("paths:\n{many}components: {{large: {{{large}get: {{}}}}}}")));
    assert!(found.ends_with("references lead to more than 200000 fields in all"), "{found}");
}

#[test]
fn methods_of_openapi_3_2() {
    let text = "openapi: 3.2.0
$self: https://a.example/openapi.yaml
paths:
  /files:
    query: {}
    additionalOperations:
      COPY: {x-hauberk-data-classes: [pii]}
      LOCK: {}
";
    assert_eq!(sorted(openapi(text)), ["COPY /files [pii]", "LOCK,QUERY /files"]);
    let found = told(&text.replace("LOCK", "lock"));
    assert!(found.starts_with("paths./files: \"lock\" is not an HTTP method"), "{found}");
    let found =
        told(&text.replace("LOCK", "QUERY").replace("QUERY: {}", "QUERY: {x-hauberk-data-classes: [order]}"));
    assert_eq!(found, "paths./files: QUERY /files is what paths./files says already");
    let found = told(&text.replace("{x-hauberk-data-classes: [pii]}", "1"));
    assert_eq!(found, "paths./files.additionalOperations.COPY: it is not a mapping");
}

#[test]
fn json_is_read_as_json() {
    let long = "x".repeat(2_000);
    let text = format!(
        "\u{feff}\r\n{{\r\n\t\"openapi\"\t: \"3.1.1\",\n\t\"info\": {{\"title\": \"\\ud83d\\ude00 \\/ \\u00e4\", \"version\": 1.0,
        \"{long}\":\n true, \"x\": [null, -1, 1e3, false]}},
        \"paths\": {{\"\\/orders\\/{{id}}.json\": {{\"get\"\n: {{\"responses\": {{\"200\": {{\"description\": \"\"}}}}}}}}}}
}}\n"
    );
    assert_eq!(sorted(openapi(&text)), ["GET /orders/{id}.json"]);
    assert_eq!(sorted(openapi("\u{feff}openapi: 3.0.0\npaths: {/a: {get: {}}}")), ["GET /a"]);
    assert_eq!(sorted(openapi("{openapi: 3.0.0, paths: {/a: {get: {}}}}")), ["GET /a"]);
    assert_eq!(sorted(openapi("{\"openapi\": 3.0, \"paths\": {\"/a\": {\"get\": {}}}}")), ["GET /a"]);
    let twice = told("{\"openapi\": \"3.0.0\", \"paths\": {\"/a\": {}, \"\\u002fa\": {}}}");
    assert!(twice.starts_with("the key \"/a\" stands here twice at line 1"), "{twice}");
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(64), "]".repeat(64));
    assert!(told(&deep).contains("nested deeper than 64 levels"), "{}", told(&deep));
    let deeper = format!("{{\"a\": {}", "[".repeat(100_000));
    assert!(told(&deeper).contains("nested deeper than 64 levels"), "{}", told(&deeper));
    assert!(told("{\"a\": [1}").contains("this is not YAML"));
    assert!(told("{\"a\": 1} {\"b\": 2}").starts_with("line 1"), "{}", told("{\"a\": 1} {\"b\": 2}"));
}

#[test]
fn what_is_too_much_is_told_as_that() {
    let values = format!("{{\"x\": [{}1]}}", "1,".repeat(100_000));
    assert!(told(&values).starts_with("it holds more than 100000 values"), "{}", told(&values));
    let values = values.replace("\"x\"", "x");
    assert!(told(&values).contains("it holds more than 100000 values"), "{}", told(&values));
    let large = document(&format!("paths: {{}}\nx-text: {}", "a ".repeat(300_000)));
    let found = openapi(&large).unwrap_err();
    assert!(
        found[0].contains("bytes; a resource has at most 524288; a large description is named as a file"),
        "{found:?}"
    );
    // Of two servers' paths each counts.
    let many: String = (0..501).map(|number| format!("  /p{number}: {{get: {{}}}}\n")).collect();
    let found = told(&document(&format!("servers: [{{url: /a}}, {{url: /b}}]\npaths:\n{many}")));
    assert_eq!(found, "it says more than 1000 routes, which are the most");
}

#[test]
fn what_no_route_can_be_is_refused_with_its_place() {
    for (path, expected) in [
        ("/{a}{b}", "nobody could tell where a parameter ends in \"{a}{b}\""),
        ("/files/{name};v={version}", "\"{name};v={version}\" is not spelled"),
        ("/v1/{name=projects/*}:cancel", "{name=projects/*} would be several segments"),
        ("/v1/{+name}{x", "\"{_name}{x\" holds no parameter"),
        ("/{a.b}/{a_b}", "the parameter {a_b} stands there twice"),
        ("/{}", "\"{}\" holds no parameter"),
        ("//a", "\"//\" is not spelled"),
    ] {
        let found = told(&document(&format!("paths: {{'{path}': {{get: {{}}}}}}")));
        assert!(found.starts_with(&format!("paths.{path}: {expected}")), "{found}");
    }
    // One route of two paths, and two that take the same requests.
    let text = "servers: [{url: /}, {url: /v1}]\npaths: {/a: {get: {}}, /v1/a: {get: {}, put: {}}}";
    assert_eq!(told(&document(text)), "paths./v1/a: GET /v1/a is what paths./a says already");
}

#[test]
fn what_no_path_tells_apart_is_one_route_and_said() {
    let text = document(
        "paths:
  /responses: {post: {}, get: {}}
  '/responses?beta=true': {post: {x-hauberk-data-classes: [pii]}}
  '/files/{file_id}#get_shared_link': {get: {}}
  '/{Bucket}?acl': {get: {}}
  '/{Bucket}?lifecycle#old': {put: {}}
  '/opt/{id?}': {get: {}}
  '/{a}/Attachments/{AttachmentID}': {get: {x-hauberk-data-classes: [order]}}
  '/{b}/Attachments/{FileName}': {get: {}, put: {}}
  '/text/{a}.{b}': {get: {}}
  '/text/{c}.{d}': {get: {}}
",
    );
    let expected = [
        "GET /files/{file_id}",
        "GET /opt/{id_}",
        "GET /responses",
        "GET /text/{a}.{b}",
        "GET /{Bucket}",
        "GET /{a}/Attachments/{AttachmentID} [order]",
        "POST /responses [pii]",
        "PUT /{Bucket}",
        "PUT /{a}/Attachments/{AttachmentID}",
    ];
    assert_eq!(sorted(openapi(&text)), expected);
    let told = told_of_shared(&text);
    let expected = "VirtualNode shop/orders: spec.listeners[0].api.openapi: no path tells these apart, so that each is one \
                    route, with the data classes of all: paths./responses and paths./responses?beta=true; \
                    paths./{a}/Attachments/{AttachmentID} and paths./{b}/Attachments/{FileName}; \
                    paths./text/{a}.{b} and paths./text/{c}.{d}";
    assert_eq!(told, [expected]);
    // By hand they are told apart by nobody either, and whoever writes them can mend it.
    let mut by_hand = listener(8080, "http");
    by_hand.routes = ["/{a}", "/{b}"]
        .map(|path| wire::RouteDeclaration { path: path.to_owned(), ..Default::default() })
        .into();
    assert!(routes_of(by_hand).unwrap_err()[0].contains("match the same requests"));
}

/// What is said of one method, or of HEAD alone, takes nothing from what another path says of every method, or of GET.
#[test]
fn a_path_that_is_told_apart_by_nobody_loses_no_data_class() {
    const PII: &str = "{x-hauberk-data-classes: [pii]}";
    const ORDER: &str = "{x-hauberk-data-classes: [order]}";
    let any = format!("x-amazon-apigateway-any-method: {PII}");
    for (paths, expected) in [
        (format!("/a: {{{any}}}, '/a?x=1': {{get: {{}}}}"), vec!["/a [pii]", "GET /a [pii]"]),
        (format!("'/{{a}}': {{{any}}}, '/{{b}}': {{get: {{}}}}"), vec!["/{a} [pii]", "GET /{a} [pii]"]),
        (
            format!("/a: {{{any}}}, '/a?x': {{get: {{}}}}, '/a?y': {{get: {ORDER}, put: {{}}}}"),
            vec!["/a [pii]", "GET /a [order pii]", "PUT /a [pii]"],
        ),
        // What a path says of its own method counts for that path, and its other methods for others.
        (
            format!("/a: {{{any}, get: {{}}}}, '/a?x': {{get: {ORDER}, put: {{}}}}"),
            vec!["/a [pii]", "GET /a [order]", "PUT /a [pii]"],
        ),
        (format!("/a: {{get: {PII}}}, '/a?m': {{head: {{}}}}"), vec!["GET,HEAD /a [pii]"]),
        (
            format!("/a: {{get: {PII}, head: {{}}}}, '/a?m': {{get: {ORDER}}}, '/a?n': {{head: {{}}}}"),
            vec!["GET /a [order pii]", "HEAD /a [order]"],
        ),
        // One path tells them apart.
        (format!("/a: {{{any}, get: {{}}}}"), vec!["/a [pii]", "GET /a"]),
        (format!("/a: {{get: {PII}, head: {{}}}}"), vec!["GET /a [pii]", "HEAD /a"]),
        (format!("/a: {{get: {PII}}}, '/a?x': {{put: {{}}}}"), vec!["GET /a [pii]", "PUT /a"]),
    ] {
        let text = document(&format!("paths: {{{paths}}}"));
        assert_eq!(sorted(openapi(&text)), expected, "{paths}");
    }
    let paths = format!("paths: {{/a: {{{any}}}, '/a?x=1': {{get: {{}}}}}}");
    let told = told_of_shared(&document(&paths));
    assert!(told[0].ends_with("with the data classes of all: paths./a and paths./a?x=1"), "{told:?}");
}

#[test]
fn of_many_places_of_one_route_the_first_are_told() {
    let paths: Vec<_> = (1..=6).map(|number| format!("'/a?{number}': {{get: {{}}}}")).collect();
    let told = told_of_shared(&document(&format!("paths: {{{}}}", paths.join(", "))));
    assert!(told[0].ends_with("paths./a?1 and paths./a?2 and paths./a?3 and 3 more"), "{told:?}");
}

/// What `apply` warns of where a description tells requests apart that no path does.
fn told_of_shared(text: &str) -> Vec<String> {
    let described = described(listener(8080, "http"), Description::Openapi(text.to_owned()));
    let warnings = try_admit(&catalog(), &[node("orders", [described])], EVERYTHING).unwrap().warnings;
    warnings.into_iter().filter(|warning| warning.contains("no path tells")).collect()
}

/// A few lines refer to much: neither memory nor time goes into more than is told.
#[test]
fn servers_that_are_referred_to_again_and_again_are_not_read_for_ever() {
    let wrong = "0,".repeat(250);
    let paths: String =
        (0..6_000).map(|number| format!("  /p{number}: {{$ref: '#/components/pathItems/x'}}\n")).collect();
    let text = |servers: &str| {
        document(&format!(
            "paths:\n{paths}components: {{pathItems: {{x: {{get: {{}}, servers: [{servers}]}}}}}}"
        ))
    };
    let found = openapi(&text(&wrong)).unwrap_err();
    assert!(found.len() <= 21, "{}", found.len());
    let many = openapi(&text(&"{url: /a},".repeat(300))).unwrap_err();
    assert!(many[0].contains("it lists 300 servers: at most 256"), "{}", many[0]);
    let good = openapi(&text(&"{url: /a},".repeat(200))).unwrap_err();
    assert!(good[0].contains("more than"), "{}", good[0]);
    let doubled = format!(
        "servers: [{{url: '{}', variables: {{a: {{default: '{}'}}}}}}]\npaths: {{}}",
        "{a}".repeat(1_000),
        "/x".repeat(1_000)
    );
    let found = openapi(&document(&doubled)).unwrap_err();
    assert!(found[0].contains("with its variables it has more than 2048 bytes"), "{found:?}");
}
