use serde_json::json;

use super::*;

fn render(template: &str, data: &Value) -> Result<String, TemplateError> {
    Template::parse(template)?.render(data)
}

fn data() -> Value {
    json!({
        "Name": "/web",
        "State": {"Status": "running", "Pid": 42, "Paused": false, "Health": null},
        "Mounts": [{"Source": "/a", "Destination": "/b"}, {"Source": "/c", "Destination": "/d"}],
        "Config": {"Env": ["A=1", "B=2"], "Labels": {"com.x/y": "z", "b": "c"}},
        "Empty": [],
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": null},
        LABELS: {"com.x/y": "z"},
    })
}

#[test]
fn templates_that_docker_users_write_give_what_docker_gives() {
    for (template, expected) in [
        ("{{.Name}}", "/web"),
        ("{{ .State.Status }}", "running"),
        ("{{json .State}}", r#"{"Health":null,"Paused":false,"Pid":42,"Status":"running"}"#),
        ("{{.State|json}}", r#"{"Health":null,"Paused":false,"Pid":42,"Status":"running"}"#),
        ("{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}", "/a:/b /c:/d "),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}},{{end}}", "0=/a,1=/c,"),
        ("{{range $m := .Mounts}}{{$m.Source}}{{end}}", "/a/c"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Mounts}}{{$.Name}}{{end}}", "/web/web"),
        (r#"{{index .Config.Labels "com.x/y"}}"#, "z"),
        (r#"{{index .Config.Labels "absent"}}"#, ""),
        (r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080"),
        (r#"{{index .Ports "80/tcp" 0 "HostIp"}}"#, "0.0.0.0"),
        (
            "{{range $p, $conf := .Ports}} {{$p}} -> {{if $conf}}{{(index $conf 0).HostPort}}{{end}}{{end}}",
            " 80/tcp -> 8080 90/tcp -> ",
        ),
        ("{{if .State.Paused}}paused{{else}}not{{end}}", "not"),
        ("{{if .State.Paused}}a{{else if eq .State.Pid 42}}b{{else}}c{{end}}", "b"),
        ("{{with .State}}{{.Pid}}{{end}}", "42"),
        ("{{with .State.Health}}{{.Status}}{{else}}no health{{end}}", "no health"),
        ("{{len .Mounts}} {{len .Name}}", "2 4"),
        (r#"{{join .Config.Env ", "}}"#, "A=1, B=2"),
        (r#"{{range .Config.Env}}{{println .}}{{end}}"#, "A=1\nB=2\n"),
        ("{{upper .Name}}{{lower \"AB\"}}{{title \"a b\"}}", "/WEBabA B"),
        ("{{truncate .Name 2}}", "/w"),
        ("{{.Name | upper | printf \"%8s|%-6s\" \"x\"}}", "       x|/WEB  "),
        ("{{slice .Name 1}}", "web"),
        ("{{split .Name \"/\" | len}}", "2"),
        ("{{printf \"%05d %q %.2s %%\" 42 .Name .Name}}", "00042 \"/web\" /w %"),
        ("{{pad .Name 1 2}}|", " /web  |"),
        ("{{$x := .Name}}{{$x}}{{$x = \"y\"}}{{$x}}", "/weby"),
        ("{{/* nothing */}}a{{- /* nothing */ -}} b", "ab"),
        ("a {{- .Name -}} b", "a/webb"),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[b:c com.x/y:z]"),
        ("{{.State.Health}}", "<no value>"),
        ("{{not true}} {{and .Name .State.Pid}} {{or .State.Health \"-\"}}", "false 42 -"),
        ("{{and false .Nothing.At.All}}", "false"),
        ("{{if and (eq .State.Status \"running\") (gt .State.Pid 1)}}up{{end}}", "up"),
        ("{{eq .Name \"a\" \"/web\"}} {{ne 1 2}} {{lt 1 2}} {{ge 1.5 2}}", "true true true false"),
        (r#"{{.Label "com.x/y"}}{{.Label "absent"}}"#, "z"),
        ("{{`{{.Name}}`}}", "{{.Name}}"),
        ("plain", "plain"),
    ] {
        assert_eq!(render(template, &data()).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn labels_that_rows_carry_are_never_shown() {
    let row = json!({"ID": "1", LABELS: {"a": "b"}});
    assert_eq!(render("{{json .}}", &row).unwrap(), r#"{"ID":"1"}"#);
    assert_eq!(render("{{.}}", &row).unwrap(), "map[ID:1]");
}

#[test]
fn what_is_wrong_with_a_template_is_said() {
    for (template, expected) in [
        ("{{.Name", "unclosed action: {{ without }}"),
        ("{{", "unclosed action: {{ without }}"),
        ("{{}}", "missing value for command"),
        ("{{.Name |}}", "missing value for command"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name)}}", "unexpected \")\" in a pipeline"),
        ("{{\"a}}", "unterminated quoted string"),
        ("{{`a}}", "unterminated raw quoted string"),
        ("{{\"\\z\"}}", "unknown escape in a quoted string"),
        ("{{/* a}}", "unclosed comment"),
        ("{{/* a */ .Name}}", "unexpected \".Name\" in a comment"),
        ("{{if .Name}}", "unexpected end: if without {{end}}"),
        ("{{range .Mounts}}", "unexpected end: range without {{end}}"),
        ("{{end}}", "unexpected \"{{end}}\" in a template"),
        ("{{else}}", "unexpected \"{{else}}\" in a template"),
        ("{{if .A}}{{else}}{{else}}{{end}}", "unexpected \"{{else}}\" in what follows an {{else}}"),
        ("{{if .A}}{{else with .B}}{{end}}", "unexpected \"with\" in {{else}}"),
        ("{{template \"x\"}}", "unexpected \"template\" in an action; it isn't supported"),
        ("{{.Name..Other}}", "unexpected \".\" in a field's name"),
        ("{{1x}}", "unexpected \"1x\" in an action, where a number should be"),
        ("{{#}}", "unexpected \"#\" in an action"),
        ("{{env \"HOME\"}}", "function \"env\" not defined"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{$x = 1}}", "undefined variable \"$x\""),
        ("{{if true}}{{$x := 1}}{{end}}{{$x}}", "undefined variable \"$x\""),
        ("{{.Name 1}}", "can't give argument to non-function"),
        ("{{1 | .Name}}", "can't give argument to non-function"),
        ("{{.Name.Foo}}", "can't evaluate field Foo: there is a text, which has no fields"),
        (
            "{{.State.Health.Status}}",
            "can't evaluate field Status: there is nothing, which has no fields",
        ),
        ("{{.State.Foo}}", "can't evaluate field Foo: there is Health, Paused, Pid, Status"),
        ("{{range .Name}}{{end}}", "range: can't iterate over a text"),
        ("{{len 3}}", "len: a number has no length"),
        ("{{len}}", "len: expects 1 argument, not 0"),
        ("{{index .Mounts 7}}", "index: index out of range: 7"),
        ("{{index .Mounts -1}}", "index: expects a number from 0 on, not -1"),
        ("{{index .Mounts \"a\"}}", "index: expects a number from 0 on, not \"a\""),
        ("{{index .Name 0}}", "index: can't index a text"),
        ("{{slice .Name 3 1}}", "slice: index out of range"),
        ("{{slice \"\u{fc}\" 1}}", "slice: index out of range"),
        ("{{join .Name \",\"}}", "join: expects a list, not a text"),
        ("{{lt .Name 1}}", "lt: can't compare a text with a number"),
        ("{{eq 1}}", "eq: expects 2 arguments"),
        ("{{printf \"%d\" \"x\"}}", "printf: %d can't show a text"),
        ("{{printf \"%s\"}}", "printf: %s has no value"),
        ("{{printf \"x\" 1}}", "printf: the format doesn't use 1"),
        ("{{printf \"%\"}}", "printf: a % at the end"),
        ("{{printf \"%9999999999999d\" 1}}", "printf: too wide"),
        ("{{printf \"%.1001f\" 1.0}}", "printf: too wide"),
    ] {
        let error = render(template, &data()).expect_err(template);
        assert_eq!(error.to_string(), expected, "{template}");
    }
}

#[test]
fn nesting_is_bounded() {
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(render(&parens, &data()), Err(TemplateError::TooDeep));
    let blocks = "{{if 1}}".repeat(100_000) + &"{{end}}".repeat(100_000);
    assert_eq!(render(&blocks, &data()), Err(TemplateError::TooDeep));
    let fine = format!("{{{{{}1{}}}}}", "(".repeat(60), ")".repeat(60));
    assert_eq!(render(&fine, &data()).as_deref(), Ok("1"));
}

#[test]
fn values_are_never_read_as_templates() {
    let data = json!({"Name": "{{.Secret}}", "Secret": "s"});
    assert_eq!(render("{{.Name}}", &data).unwrap(), "{{.Secret}}");
    assert_eq!(render("{{printf .Name}}", &data).unwrap(), "{{.Secret}}");
}

#[test]
fn head_keeps_titles_through_docker_functions() {
    let titles = json!({"ID": "CONTAINER ID", "Names": "NAMES"});
    for (template, expected) in [
        ("{{.ID}}\t{{.Names}}", "CONTAINER ID\tNAMES"),
        ("{{lower .ID}}", "CONTAINER ID"),
        ("{{truncate .ID 4}}", "CONTAINER ID"),
        ("{{join .Names \",\"}}", "NAMES"),
        ("{{json .Names}}", "NAMES"),
        ("{{.Label \"com.docker.swarm.cpu-set\"}}", "cpu set"),
    ] {
        let template = Template::parse(template).unwrap();
        assert_eq!(template.render_head(&titles).as_deref(), Ok(expected));
    }
}
