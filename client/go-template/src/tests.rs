use crate::table::{Columns, Format, align};
use crate::{TemplateError, render};
use proptest::prelude::*;
use serde_json::{Value, json};

fn sample() -> Value {
    json!({
        "ID": "0123456789ab",
        "Names": ["web", "db"],
        "Config": { "Labels": { "com.example.a": "1", "b": "2" }, "Tty": false, "Env": [] },
        "State": { "Pid": 42, "Health": null, "Load": 0.5 },
        "Size": 1_500_000_000_000u64,
        "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] }
    })
}

#[track_caller]
fn check(template: &str, expected: &str) {
    assert_eq!(
        render(template, &sample()).as_deref(),
        Ok(expected),
        "{template}"
    );
}

#[track_caller]
fn fails(template: &str, expected: &str) {
    let error = render(template, &sample()).expect_err(template);
    assert!(error.to_string().contains(expected), "{template}: {error}");
}

#[test]
fn fields_and_text() {
    check("plain", "plain");
    check("{{.ID}}", "0123456789ab");
    check("<{{ .State.Pid }}>", "<42>");
    check(
        "{{.Names}} {{.Size}} {{.State.Load}}",
        "[web db] 1500000000000 0.5",
    );
    check("{{.State}}", "{42 <nil> 0.5}");
    check("{{.Config.Labels}}", "map[b:2 com.example.a:1]");
    check("{{.State.Health}}", "<nil>");
}

#[test]
fn a_missing_map_key_has_no_value_and_a_missing_field_is_an_error() {
    check("{{.Config.Labels.nothing}}", "<no value>");
    fails("{{.Missing}}", "map has no entry for key \"Missing\"");
    fails("{{.State.Health.Status}}", "nil pointer evaluating .Status");
}

#[test]
fn functions() {
    check("{{json .Names}}", "[\"web\",\"db\"]");
    check("{{.Names | json}}", "[\"web\",\"db\"]");
    check(
        "{{json .Config.Labels}}",
        "{\"com.example.a\":\"1\",\"b\":\"2\"}",
    );
    check("{{prettyjson .Names}}", "[\n    \"web\",\n    \"db\"\n]");
    check("{{join .Names \", \"}}", "web, db");
    check("{{index .Names 1}} {{index .Config.Labels \"b\"}}", "db 2");
    check("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080");
    check("{{len .Names}}{{len .ID}}", "212");
    check(
        "{{upper \"ab\"}}{{lower \"AB\"}}{{title \"ab cd\"}}",
        "ABabAb Cd",
    );
    check(
        "{{truncate .ID 4}}|{{pad \"x\" 1 2}}|{{slice .ID 1 3}}",
        "0123| x  |12",
    );
    check("{{range split \"a,b\" \",\"}}<{{.}}>{{end}}", "<a><b>");
    check(
        "{{printf \"%-5s|%05d|%.2f|%q|%v|%%\" \"ab\" 42 1.5 \"q\" .Names}}",
        "ab   |00042|1.50|\"q\"|[web db]|%",
    );
    check("{{html \"<a>\"}}{{urlquery \"a b&\"}}", "&lt;a&gt;a+b%26");
    check("{{println \"a\" 1}}", "a 1\n");
    check(
        "{{eq 1 2 1}}{{ne 1 1}}{{lt 1 2}}{{ge \"b\" \"a\"}}",
        "truefalsetruetrue",
    );
    check("{{and 1 0}}{{or 0 \"x\"}}{{not 0}}", "0xtrue");
    check("{{or .ID (index .Names 9)}}", "0123456789ab");
    fails("{{or .Config.Tty (index .Names 9)}}", "index out of range");
}

#[test]
fn control() {
    check("{{if .Config.Tty}}a{{else if .ID}}b{{else}}c{{end}}", "b");
    check("{{if .Config.Env}}a{{else}}none{{end}}", "none");
    check("{{range .Names}}{{.}},{{end}}", "web,db,");
    check(
        "{{range $i, $n := .Names}}{{$i}}={{$n}} {{end}}",
        "0=web 1=db ",
    );
    check(
        "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
        "b=2;com.example.a=1;",
    );
    check("{{range .Config.Env}}x{{else}}empty{{end}}", "empty");
    check(
        "{{range .Names}}{{if eq . \"db\"}}{{break}}{{end}}{{.}}{{end}}",
        "web",
    );
    check(
        "{{range .Names}}{{if eq . \"web\"}}{{continue}}{{end}}{{.}}{{end}}",
        "db",
    );
    check("{{with .State}}{{.Pid}} {{$.ID}}{{end}}", "42 0123456789ab");
    check("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2");
    check(
        "{{range $p, $c := .Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}",
        "80/tcp -> 8080",
    );
}

#[test]
fn trimming_and_comments() {
    check("a {{- .State.Pid -}} b", "a42b");
    check("a {{/* no\nthing */}}b", "a b");
    check("a {{- /* nothing */ -}} b", "ab");
    check("{{`raw\\n`}}{{\"t\\tx\"}}", "raw\\nt\tx");
    check("{{-1}} {{0x10}}", "-1 16");
}

#[test]
fn mistakes_are_named() {
    fails("{{.ID", "unclosed action");
    fails("{{nope .}}", "function \"nope\" not defined");
    fails("{{if .ID}}x", "unexpected EOF");
    fails("{{end}}", "unexpected {{end}}");
    fails("{{\"x}}", "unterminated quoted string");
    fails("{{$x}}", "undefined variable");
    fails("{{index .Names 7}}", "index out of range: 7");
    fails("{{.ID.Name}}", "can't evaluate field Name");
    fails("{{define \"x\"}}{{end}}", "not supported");
    fails("\n\n{{nope}}", ":3:");
    fails("{{.ID | }}", "missing value");
    fails("{{}}", "missing value");
    fails("{{break}}", "outside {{range}}");
    fails(&"{{if 1}}".repeat(500), "nested too deeply");
    fails(&format!("{{{{{}}}}}", "(".repeat(500)), "nested too deeply");
}

#[test]
fn output_is_bounded() {
    fails("{{range 99999999}}{{end}}", "can't iterate over 99999999");
    let nested = "{{range 1000}}{{range 1000}}{{range 1000}}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{end}}{{end}}{{end}}";

    assert!(matches!(
        render(nested, &sample()),
        Err(TemplateError::Execute { .. })
    ));
}

#[test]
fn columns_are_as_wide_as_their_widest_cell() {
    let text = "NAME\tSTATE\na-long-name-here\tup\nb\tdown\n";
    assert_eq!(
        align(text, Columns::DOCKER),
        "NAME               STATE\na-long-name-here   up\nb                  down\n"
    );
    assert_eq!(
        align("a\tb\tc\n", Columns::DOCKER),
        "a         b         c\n"
    );
}

#[test]
fn formats() {
    let rows = [
        json!({ "ID": "1", "Name": "one" }),
        json!({ "ID": "2", "Name": "two" }),
    ];
    let headings = [("ID", "CONTAINER ID"), ("Name", "NAMES")];
    let shown = |format: &str| {
        Format::parse(format)
            .and_then(|format| format.render(&rows, &headings, Columns::DOCKER))
            .expect(format)
    };
    assert_eq!(shown("{{.ID}}"), "1\n2\n");
    assert_eq!(
        shown("json"),
        "{\"ID\":\"1\",\"Name\":\"one\"}\n{\"ID\":\"2\",\"Name\":\"two\"}\n"
    );
    assert_eq!(
        shown("table {{.ID}}\\t{{.Name}}"),
        "CONTAINER ID   NAMES\n1              one\n2              two\n"
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[{}.$a-z0-9\"|():=, \\-/*`%]{0,60}") {
        let _ = render(&text, &sample());
    }

    #[test]
    fn text_without_braces_is_itself(text in "[^{]{0,40}") {
        prop_assert_eq!(render(&text, &sample()).expect("plain text"), text);
    }
}
