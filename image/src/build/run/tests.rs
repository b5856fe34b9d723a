use std::io::Write;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::super::testing::{Lab, archive_bytes, map};

#[test]
fn seeds_example_builds_word_for_word() {
    let mut lab = Lab::new();
    lab.write("index.html", "new");
    lab.options.tags = vec!["web".parse().unwrap()];
    let built = lab.built("FROM nginx\nADD index.html /usr/share/nginx/html\n");
    assert_eq!(built.read("usr/share/nginx/html/index.html"), "new");
    assert!(built.has("bin/sh"));
    assert_eq!(built.config("Cmd"), &json!(["nginx"]));
    assert_eq!(built.history(), ["ADD index.html /usr/share/nginx/html"]);
    assert_eq!(built.image.config.rootfs.diff_ids.len(), 2);
    let lines = &built.lab.host.lines;
    assert_eq!(lines[0], "Step 1/2 : FROM nginx");
    assert_eq!(lines[2], "Step 2/2 : ADD index.html /usr/share/nginx/html");
    assert_eq!(lines[3], format!(" ---> {}", &built.image.id["sha256:".len()..][..12]));
    assert_eq!(built.lab.images.find("web").unwrap().image.id, built.image.id);
}

const STEPS: &str = "FROM base\nENV A=1\nCOPY f /f\nRUN make $A\nLABEL x=y\n";

#[test]
fn same_build_again_is_the_same_image_without_running_anything() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    let first = lab.build(STEPS).unwrap();
    assert_eq!(lab.host.requests.len(), 1);
    // A fresh checkout has other times.
    std::fs::remove_file(lab.path("f")).unwrap();
    lab.write("f", "1");
    let second = lab.build(STEPS).unwrap();
    assert_eq!((second.id, lab.host.requests.len()), (first.id.clone(), 1));
    assert_eq!(lab.host.lines.iter().filter(|line| *line == " ---> Using cache").count(), 2);

    lab.write("f", "2");
    let changed = lab.build(STEPS).unwrap();
    assert_ne!(changed.id, first.id);
    assert_eq!(lab.host.requests.len(), 2);
    lab.options.no_cache = true;
    lab.build(STEPS).unwrap();
    assert_eq!(lab.host.requests.len(), 3);
}

#[test]
fn what_comes_before_a_step_decides_whether_its_image_is_used_again() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    lab.build(STEPS).unwrap();
    for text in [
        "FROM base\nENV A=2\nCOPY f /f\nRUN make $A\n",
        "FROM base\nENV A=1\nCOPY f /g\nRUN make $A\n",
        "FROM base\nENV A=1\nCOPY f /f\nUSER web\nRUN make $A\n",
    ] {
        let before = lab.host.requests.len();
        lab.build(text).unwrap();
        assert_eq!(lab.host.requests.len(), before + 1, "{text}");
    }
}

#[test]
fn step_whose_image_was_removed_is_done_again() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    lab.build(STEPS).unwrap();
    let steps = lab.images.build_steps();
    assert_eq!(steps.len(), 2);
    for id in steps {
        lab.images.remove(&id, true, &|_| None).unwrap();
    }
    lab.build(STEPS).unwrap();
    assert_eq!(lab.host.requests.len(), 2);
}

#[test]
fn target_gets_files_of_the_stages_that_it_needs_only() {
    let mut lab = Lab::new();
    lab.write("src/main", "source");
    let text = "ARG BASE=base\nFROM ${BASE} AS build\nWORKDIR /src\nCOPY src .\nRUN cc\n\
                FROM missing AS unused\nRUN never\n\
                FROM scratch\nCOPY --from=build /src/main /ran /app/\nCOPY --from=0 /etc /etc\n\
                COPY --from=nginx /bin/sh /sh\nCMD [\"/app/main\"]\n";
    let built = lab.built(text);
    assert_eq!(built.read("app/main"), "source");
    assert_eq!(built.read("app/ran"), "/bin/sh -c cc");
    assert!(built.has("etc/passwd") && built.has("sh") && !built.has("bin"));
    assert_eq!(built.config("Cmd"), &json!(["/app/main"]));
    assert_eq!(built.lab.host.provided, ["base -", "nginx -"]);
    assert_eq!(built.lab.host.requests.len(), 1);
    lab.options.target = Some("build".to_owned());
    assert!(lab.built(text).has("src/main"));
}

#[test]
fn stage_goes_on_from_another_with_its_configuration_and_arguments() {
    let mut lab = Lab::new();
    let built = lab.built(
        "FROM base AS one\nARG V=1\nENV A=$V\nUSER web\nENTRYPOINT [\"e\"]\nFROM one\nCMD c$A\n\
         RUN x\nLABEL v=\"$V $A\"\n",
    );
    assert_eq!(built.config("Entrypoint"), &json!(["e"]));
    assert_eq!(built.config("Cmd"), &json!(["/bin/sh", "-c", "c$A"]));
    assert_eq!(built.config("Labels"), &json!({ "v": "1 1" }));
    let request = &built.lab.host.requests[0];
    assert_eq!(request.env, ["PATH=/bin", "A=1", "V=1"]);
    assert_eq!((request.user.as_str(), request.cwd.as_str()), ("web", "/"));
}

#[test]
fn commands_get_arguments_environment_shell_and_documents() {
    let mut lab = Lab::new();
    lab.options.build_args = map(&[("A", "given"), ("http_proxy", "p"), ("TYPO", "x")]);
    let built = lab.built(
        "FROM base\nARG A=1\nARG B=b\nENV B=env\nRUN [\"prog\", \"$A\"]\nSHELL [\"ash\", \"-e\"]\n\
         RUN one && \\\n  two\nRUN <<E\nthree\nE\nRUN cat <<E >/x\nfour\nE\n\
         RUN <<S\n#!/bin/ash\nfive\nS\n",
    );
    let requests = &built.lab.host.requests;
    assert_eq!(requests[0].env, ["PATH=/bin", "B=env", "A=given", "http_proxy=p"]);
    let words: Vec<_> = requests.iter().map(|request| request.words.join("|")).collect();
    assert_eq!(
        words,
        [
            "prog|$A",
            "ash|-e|one && \\\n  two",
            "ash|-e|three\n",
            "ash|-e|cat <<E >/x\nfour\nE",
            "/dev/pipes/S"
        ]
    );
    assert_eq!(requests[4].script.as_ref().unwrap().content, "#!/bin/ash\nfive\n");
    assert_eq!(built.history()[3], "RUN |1 A=given prog $A");
    assert_eq!(built.lab.host.warnings, ["One or more build-args [TYPO] were not consumed"]);
}

#[test]
fn instructions_without_files_change_the_configuration() {
    let mut lab = Lab::new();
    lab.options.labels = map(&[("by", "flag")]);
    let built = lab.built(
        "FROM base\nENV P=8080 D=\"a b\"\nEXPOSE $P/udp 90-91\nVOLUME [\"/v\"]\nVOLUME /$P\n\
         USER web\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK --retries=2 CMD true\nLABEL d=$D\n\
         MAINTAINER me\nENTRYPOINT run $P\n",
    );
    let ports = json!({ "80/tcp": {}, "8080/udp": {}, "90/tcp": {}, "91/tcp": {} });
    assert_eq!(built.config("ExposedPorts"), &ports);
    assert_eq!(built.config("Volumes"), &json!({ "/v": {}, "/8080": {} }));
    assert_eq!(built.config("User"), "web");
    assert_eq!(built.config("StopSignal"), "SIGQUIT");
    assert_eq!(
        built.config("Healthcheck"),
        &json!({ "Test": ["CMD-SHELL", "true"], "Retries": 2 })
    );
    assert_eq!(built.config("Labels"), &json!({ "d": "a b", "by": "flag" }));
    assert_eq!(built.config("Entrypoint"), &json!(["/bin/sh", "-c", "run $P"]));
    assert!(built.config("Cmd").is_null(), "the base's arguments were for its own program");
    assert_eq!(built.image.config.author.as_deref(), Some("me"));
    assert_eq!(built.image.config.rootfs.diff_ids.len(), 1);
    assert!(built.image.config.history.iter().all(|entry| entry.empty_layer));
    assert_eq!(built.history()[1], "EXPOSE 8080/udp 90-91");
}

#[test]
fn destinations_lead_through_the_images_links_and_never_out_of_it() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    lab.write("d/deep/x", "x");
    lab.write("d/y", "y");
    symlink("deep/x", lab.path("d/link")).unwrap();
    let built = lab.built(
        "FROM base\nCOPY f /var/run/\nCOPY f out/from\nCOPY f /sbin/tool\nWORKDIR /w\n\
         COPY d sub\nCOPY d/* ./\nCOPY [\"f\", \"a b\"]\nCOPY f /bin\n",
    );
    assert!(built.is_link("var/run", "/run") && built.is_link("sbin", "bin"));
    for path in
        ["run/f", "etc/from", "bin/tool", "bin/f", "w/sub/deep/x", "w/sub/y", "w/x", "w/a b"]
    {
        assert!(built.has(path), "{path}");
    }
    assert!(built.is_link("w/sub/link", "deep/x"));
    assert_eq!(built.read("w/link"), "x");
    assert_eq!(built.read("etc/from"), "1");
}

#[test]
fn owners_and_modes_are_the_images_names_or_numbers() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    let built = lab.built(
        "FROM base\nARG O=web\nCOPY f /plain\nCOPY --chown=$O --chmod=750 f /n/named\n\
         ADD --chown=7:staff f /group\nUSER web\nWORKDIR /mine\nCOPY <<E /doc\n$O\nE\n",
    );
    assert_eq!(built.mode("plain").1, 0);
    assert_eq!(built.mode("n/named"), (0o750, 33, 44));
    assert_eq!(built.mode("n"), (0o755, 33, 44));
    assert_eq!((built.mode("group").1, built.mode("group").2), (7, 50));
    assert_eq!(built.mode("mine"), (0o755, 33, 44));
    assert_eq!(built.read("doc"), "web\n");
    assert_eq!(built.mode("doc"), (0o644, 0, 0));
}

#[test]
fn archives_are_unpacked_by_add_and_only_copied_by_copy() {
    let mut lab = Lab::new();
    let bytes = archive_bytes(&[("top/x", b"x"), ("sbin/y", b"y")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    lab.write("a.tar", &bytes);
    lab.write("a.tar.gz", gzip.finish().unwrap());
    lab.write("text.gz.txt", "no archive");
    let built = lab.built(
        "FROM base\nADD a.tar /plain\nADD a.tar.gz /\nADD text.gz.txt /\nCOPY a.tar /kept\n",
    );
    assert_eq!(built.read("plain/top/x"), "x");
    // The base's /sbin is a link to /bin.
    assert!(built.has("bin/y") && built.is_link("sbin", "bin"));
    assert!(built.has("top/x") && built.has("text.gz.txt"));
    assert_eq!(built.read("kept").len(), bytes.len());
}

#[test]
fn hostile_archives_are_refused() {
    let mut lab = Lab::new();
    let raw = |path: &[u8], kind, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        if !target.is_empty() {
            header.set_link_name(target).unwrap();
        }
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let link = raw(b"a", tar::EntryType::Symlink, "/etc");
    let through = raw(b"a/passwd", tar::EntryType::Regular, "");
    for (bytes, expected) in [
        (raw(b"../x", tar::EntryType::Regular, ""), "leads out of the archive"),
        (raw(b"a/../../x", tar::EntryType::Regular, ""), "leads out of the archive"),
        (raw(b"x", tar::EntryType::Link, "../y"), "leads out of the archive"),
        (raw(b"dev", tar::EntryType::Block, ""), "isn't unpacked"),
        (raw(b"\xff", tar::EntryType::Regular, ""), "isn't UTF-8"),
        ([link, through].concat(), "is a link that was just made"),
        (archive_bytes(&[("big", &[7; 4096])])[..1000].to_vec(), "a.tar"),
    ] {
        lab.write("a.tar", &bytes);
        let problem = lab.problem("FROM base\nADD a.tar /\n");
        assert!(problem.starts_with("Dockerfile:2: `ADD a.tar /`"), "{problem}");
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

#[test]
fn what_a_build_names_and_cant_have_is_said_with_its_line() {
    let mut lab = Lab::new();
    lab.write("f", "1");
    lab.write("g", "1");
    lab.write("secret", "1");
    lab.write(".dockerignore", "secret\n");
    symlink("/etc/passwd", lab.path("outside")).unwrap();
    symlink("loop", lab.path("loop")).unwrap();
    for (step, expected) in [
        ("COPY none /", "none isn't in the build context"),
        ("COPY *.none /", "*.none isn't in the build context"),
        ("COPY secret /", "secret is excluded by .dockerignore"),
        ("COPY ../f /", "../f leads out of the build context"),
        ("COPY f/../../f /", "leads out of the build context"),
        ("COPY outside /x", "outside"),
        ("COPY loop /x", "too many links"),
        ("COPY [ /", "["),
        ("COPY f g /bin/sh", "must be a directory and end with /"),
        ("COPY f /bin/sh/x", "is no directory"),
        ("COPY --chown=nobody f /", "the image has no user named nobody"),
        ("COPY --chown=0:none f /", "the image has no group named none"),
        ("COPY --chmod=rwx f /", "`rwx` is no mode"),
        ("COPY --from=missing / /", "the registry hasn't got it"),
        ("COPY --from=base /none /", "/none isn't in the image"),
        ("COPY $NONE /", "`$NONE` is empty"),
        ("ADD https://example.org/x /", "ADD doesn't fetch URLs"),
        ("ADD git@example.org:x.git /", "ADD doesn't fetch URLs"),
        ("WORKDIR /bin/sh", "/bin/sh is no directory"),
        ("WORKDIR $NONE", "WORKDIR needs an argument"),
        ("EXPOSE http", "`http` is no port"),
        ("STOPSIGNAL now then", "is no signal"),
        ("ENV A=${B", "`}` is missing"),
        ("HEALTHCHECK --interval=x CMD true", "is no duration"),
        ("RUN []", "RUN needs a command"),
    ] {
        let problem = lab.problem(&format!("FROM base\n{step}\n"));
        assert!(problem.starts_with(&format!("Dockerfile:2: `{step}`: ")), "{step}: {problem}");
        assert!(problem.contains(expected), "{step}: {problem}");
    }
    assert!(lab.problem("FROM missing\n").contains("Dockerfile:1: `FROM missing`"));
    assert!(lab.problem("FROM scratch\nRUN x\n").contains("there's nothing to run"));
    assert!(lab.problem(&"#".repeat(5 << 20)).contains("it's larger than"));
    lab.host.code = 3;
    assert_eq!(
        lab.problem("FROM base\nRUN false\n"),
        "Dockerfile:2: `RUN false`: the command exited with code 3"
    );
}

#[test]
fn failed_build_names_nothing_and_leaves_what_the_name_was() {
    let mut lab = Lab::new();
    lab.options.tags = vec!["nginx".parse().unwrap(), "fresh".parse().unwrap()];
    let before = lab.images.find("nginx").unwrap().image.id;
    lab.problem("FROM base\nRUN x\nCOPY none /\n");
    assert_eq!(lab.images.find("nginx").unwrap().image.id, before);
    assert!(lab.images.find("fresh").is_err());
}
