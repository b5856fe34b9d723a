use super::*;

fn parsed(text: &str) -> Dockerfile {
    parse("Dockerfile", text).unwrap()
}

fn first(text: &str) -> Instruction {
    let mut dockerfile = parsed(&format!("FROM scratch\n{text}\n"));
    dockerfile.stages.remove(0).steps.remove(0).instruction
}

fn problem(text: &str) -> String {
    parse("Dockerfile", text).unwrap_err().to_string()
}

#[test]
fn stages_have_names_bases_and_steps() {
    let file = parsed(
        "# syntax=docker/dockerfile:1\n\nARG V=1\nFROM --platform=$P nginx:${V} AS Web\nRUN a\n\
         from web\n\tENV x y z\n",
    );
    assert_eq!(file.global_args.len(), 1);
    let [one, two] = &file.stages[..] else { panic!("{:?}", file.stages) };
    assert_eq!((one.base.as_str(), one.name.as_deref()), ("nginx:${V}", Some("web")));
    assert_eq!(one.platform.as_deref(), Some("$P"));
    assert_eq!((one.place.line, two.place.line), (4, 6));
    let Instruction::Env(pairs) = &two.steps[0].instruction else { panic!() };
    assert_eq!(pairs[..], [("x".to_owned(), "y z".to_owned())]);
}

#[test]
fn lines_are_joined_and_comments_between_them_dropped() {
    let Instruction::Run { command, .. } = first("RUN one && \\\n  # no\n\n  two \\\n three")
    else {
        panic!()
    };
    assert_eq!(command, Command::Shell("one && \\\n  two \\\n three".to_owned()));
    let file = parsed("# escape=`\nFROM a\nRUN x `\n y\n");
    assert_eq!(file.escape, '`');
    assert_eq!(file.stages[0].steps[0].display, "RUN x  y");
}

#[test]
fn commands_are_exec_or_shell() {
    let Instruction::Cmd(exec) = first(r#"CMD ["nginx", "-g", "daemon off;"]"#) else { panic!() };
    assert_eq!(exec, Command::Exec(["nginx", "-g", "daemon off;"].map(str::to_owned).to_vec()));
    // As in Docker, what isn't JSON is for the shell.
    let Instruction::Cmd(shell) = first("CMD ['nginx']") else { panic!() };
    assert_eq!(shell, Command::Shell("['nginx']".to_owned()));
}

#[test]
fn here_documents_are_found_anywhere_on_a_line() {
    let text = "RUN cat <<EOF >/a && cat <<-'B' >/b\none $X\nEOF\n\ttwo\n\tB";
    let Instruction::Run { command, documents } = first(text) else { panic!() };
    assert_eq!(command, Command::Shell("cat <<EOF >/a && cat <<-'B' >/b".to_owned()));
    let document = |name: &str, expand, content: &str| Document {
        name: name.to_owned(),
        expand,
        content: content.to_owned(),
    };
    assert_eq!(documents, [document("EOF", true, "one $X\n"), document("B", false, "two\n")]);

    let Instruction::Copy(copy) = first("COPY --chown=1:2 a <<F.txt /d/\nx\nF.txt") else {
        panic!()
    };
    let sources =
        [Source::Pattern("a".to_owned()), Source::Document(document("F.txt", true, "x\n"))];
    assert_eq!(copy.sources, sources);
    assert_eq!((copy.chown.as_deref(), copy.destination.as_str()), (Some("1:2"), "/d/"));
}

#[test]
fn lists_and_options_are_read() {
    let Instruction::Expose(ports) = first("EXPOSE 80 443/udp") else { panic!() };
    assert_eq!(ports, ["80", "443/udp"]);
    let Instruction::Volume(paths) = first(r#"VOLUME ["/a b"]"#) else { panic!() };
    assert_eq!(paths, ["/a b"]);
    let Instruction::Healthcheck(Some(check)) = first("HEALTHCHECK --interval=5s CMD x || exit 1")
    else {
        panic!()
    };
    assert_eq!(check.options, [("interval".to_owned(), "5s".to_owned())]);
    assert_eq!(check.command, Command::Shell("x || exit 1".to_owned()));
    assert!(matches!(first("HEALTHCHECK NONE"), Instruction::Healthcheck(None)));
    let Instruction::Arg(arguments) = first("ARG A B=\"x y\"") else { panic!() };
    assert_eq!(arguments[1], ("B".to_owned(), Some("\"x y\"".to_owned())));
}

#[test]
fn mistakes_are_named_with_their_line_and_its_text() {
    for (text, expected) in [
        ("", "Dockerfile:1: ``: there's no FROM instruction"),
        ("RUN x", "Dockerfile:1: `RUN x`: a Dockerfile begins with FROM (or ARG)"),
        ("FROM a\n\nFOO x", "Dockerfile:3: `FOO x`: there's no instruction FOO"),
        ("FROM a\nRUN", "Dockerfile:2: `RUN`: RUN needs a command"),
        ("FROM a b", "Dockerfile:1: `FROM a b`: expected `FROM IMAGE [AS NAME]`"),
        ("FROM a AS 1", "Dockerfile:1: `FROM a AS 1`: `1` is no name for a stage"),
        ("FROM a\nCOPY x", "Dockerfile:2: `COPY x`: COPY needs a source and a destination"),
        ("FROM a\nENV x", "Dockerfile:2: `ENV x`: x has no value"),
        ("FROM a\nRUN <<E\nx", "Dockerfile:2: `RUN <<E`: the here-document's end, `E`, is missing"),
        ("FROM a\nRUN --mount=x y", "Dockerfile:2: `RUN --mount=x y`: RUN --mount isn't supported"),
        (
            "FROM a\nSHELL sh",
            "Dockerfile:2: `SHELL sh`: SHELL takes a JSON array, as in [\"sh\", \"-c\"]",
        ),
        ("FROM a\n<<E", "Dockerfile:2: `<<E`: `<<E` is no instruction"),
    ] {
        assert_eq!(problem(text), expected);
    }
}

#[test]
fn no_text_makes_the_parser_panic() {
    let pieces =
        ["FROM", " a", "\n", "RUN", "\\", "<<", "E", "'", "\"", "[", "]", "--", "=", "é", "\t"];
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        let _ = parse("Dockerfile", &text);
    }
}
