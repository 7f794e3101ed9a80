use super::*;
use crate::containers::host::Ids;

fn process(pid: u32, parent: u32, command: &str) -> ProcessFacts {
    let root = || (0, "root".to_owned());
    let ids = Ids {
        real: root(),
        effective: root(),
        saved: root(),
        files: root(),
    };
    ProcessFacts {
        pid,
        thread: pid,
        parent,
        group: pid,
        session: pid,
        foreground: -1,
        threads: 1,
        users: ids.clone(),
        groups: ids,
        start: "15:26".into(),
        start_whole: "Sat Nov 21 15:26:02 2026".into(),
        age: 61,
        terminal: "?".into(),
        cpu_ticks: 372_300,
        state: "S".into(),
        flags: 4 << 6,
        priority: 20,
        virtual_memory: 2268,
        resident_memory: 1376,
        name: command.split(' ').next().unwrap().into(),
        command: command.into(),
        stack_start: 0x7ffc_0000_0000,
        namespaces: vec![("net".into(), 4_026_531_833)],
        ..ProcessFacts::default()
    }
}

fn shown(arguments: &str) -> Result<ProcessTable, String> {
    let facts = vec![process(20, 1, "sleep 1000"), process(30, 20, "worker two")];
    let mut second = facts[0].clone();
    second.thread = 21;
    let threads = [second, facts[1].clone(), facts[0].clone()];
    Ok(table(&arguments::read(arguments)?, facts, &threads))
}

fn titles(arguments: &str) -> String {
    shown(arguments).map_or_else(|error| error, |table| table.titles.join(" "))
}

/// As `docker top` of 20.10 with procps 4.0 said.
#[test]
fn the_titles_are_those_of_ps() {
    for (arguments, expected) in [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("-eo pid,comm", "PID COMMAND"),
        ("axo pid,comm,user", "PID COMMAND USER"),
        ("-axo pid,comm", "PID COMMAND"),
        ("-o pid,user,args", "PID USER COMMAND"),
        ("-o pid=PID,comm=NAME", "PID NAME"),
        ("-o pid=PID,etime=Age,ni", "PID Age NI"),
        ("-o pid -o user", "PID USER"),
        ("-opid", "PID"),
        ("opid", "PID"),
        ("o pid,%mem", "PID %MEM"),
        ("-o pid,", "PID"),
        ("-o pid:10,comm:3", "PID COMMAND"),
        ("--format=pid,ni", "PID NI"),
        ("--format pid", "PID"),
        ("-o %p%U", "PID USER"),
        ("-o pid,tty,tt,tname,lstart", "PID TT TT TTY STARTED"),
        ("-O user", "PID USER S TTY TIME COMMAND"),
        ("-e", "PID TTY TIME CMD"),
        ("-a", "PID TTY TIME CMD"),
        ("a", "PID TTY STAT TIME COMMAND"),
        ("axf", "PID TTY STAT TIME COMMAND"),
        ("--forest", "PID TTY TIME CMD"),
        ("-L", "PID LWP TTY TIME CMD"),
        ("-T", "PID SPID TTY TIME CMD"),
        ("-eLf", "UID PID PPID LWP C NLWP STIME TTY TIME CMD"),
        ("-l", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
        ("-ly", "S UID PID PPID C PRI NI RSS SZ WCHAN TTY TIME CMD"),
        (
            "-lf",
            "F S UID PID PPID C PRI NI ADDR SZ WCHAN STIME TTY TIME CMD",
        ),
        ("-F", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD"),
        ("-j", "PID PGID SID TTY TIME CMD"),
        ("-jf", "UID PID PPID PGID SID C STIME TTY TIME CMD"),
        ("-c", "PID CLS PRI TTY TIME CMD"),
        ("-efc", "UID PID PPID CLS PRI STIME TTY TIME CMD"),
        ("-Z", "LABEL PID TTY TIME CMD"),
        (
            "l",
            "F UID PID PPID PRI NI VSZ RSS WCHAN STAT TTY TIME COMMAND",
        ),
        ("j", "PPID PID PGID SID TTY TPGID STAT UID TIME COMMAND"),
        ("v", "PID TTY STAT TIME MAJFL TRS DRS RSS %MEM COMMAND"),
        (
            "s",
            "UID PID PENDING BLOCKED IGNORED CAUGHT STAT TTY TIME COMMAND",
        ),
        ("m", "PID TTY STAT TIME COMMAND"),
        ("-m", "PID TTY TIME CMD"),
        ("-Lm", "PID LWP TTY TIME CMD"),
        ("X", "PID STACKP ESP EIP TMOUT ALARM STAT TTY TIME COMMAND"),
        ("-eo pid,netns,sig,wname", "PID NETNS PENDING WCHAN"),
        (
            "mH",
            "ps: error: thread flags conflict; can't use H with m or -m",
        ),
        (
            "-eLT",
            "ps: error: thread flags conflict; can't use both -L and -T",
        ),
        (
            "-LH",
            "ps: error: thread display conflicts with forest display",
        ),
        (
            "mf",
            "ps: error: thread display conflicts with forest display",
        ),
        ("Xu", "ps: error: conflicting format options"),
        ("-o pid= -o comm", "Couldn't find PID field in ps output"),
        ("-o comm", "Couldn't find PID field in ps output"),
        ("--no-headers", "Couldn't find PID field in ps output"),
        ("h", "Couldn't find PID field in ps output"),
        (
            "-o pid,foo",
            "ps: error: unknown user-defined format specifier \"foo\"",
        ),
        (
            "-o pid,comm=PID",
            "specifying \"pid,comm=PID\" is not allowed",
        ),
        ("-Q", "ps: error: unsupported SysV option"),
        ("--nope", "ps: error: unknown gnu long option"),
        ("-o", "ps: error: format specification must follow -o"),
        ("-o pid --sort foo", "ps: error: unknown sort specifier"),
        (
            "--sort",
            "ps: error: long sort specification must follow --sort",
        ),
        ("-ef u", "ps: error: conflicting format options"),
        (
            "-y",
            "ps: error: modifier -y without format -l makes no sense",
        ),
        (
            "-o pid,numa",
            "top: the column \"numa\" is not supported here",
        ),
    ] {
        assert_eq!(titles(arguments), expected, "{arguments:?}");
    }
    for bsd in ["aux", "-aux", "waux", "auxww", "u"] {
        assert_eq!(
            titles(bsd),
            "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"
        );
    }
}

#[test]
fn what_is_under_the_titles() {
    let row = |arguments: &str| shown(arguments).expect(arguments).rows[0].join("|");
    assert_eq!(
        row(
            "-eo pid,ppid,user,uid,pri,ni,etime,etimes,stat,sz,vsz,rss,f,group,time,start,lstart,cls,tpgid,wchan,args"
        ),
        "20|1|root|0|19|0|01:01|61|Ss|567|2268|1376|4|root|01:02:03|15:26:02|Sat Nov 21 15:26:02 2026|TS|-1|-|sleep 1000"
    );
    assert_eq!(row("-l"), "4|S|0|20|1|99|80|0|-|567|-|?|01:02:03|sleep");
    assert_eq!(
        row("aux"),
        "root|20|6103.2|0.0|2268|1376|?|Ss|15:26|62:03|sleep 1000"
    );
    assert_eq!(row("-n -o pid,user"), "20|0");
    assert_eq!(
        row("X"),
        "20|00007ffc00000000|0000000000000000|0000000000000000|-|-|Ss|?|62:03|sleep 1000"
    );
    assert_eq!(row("-eo pid,netns,pidns"), "20|4026531833|-");
    // Without a title: Docker counts words.
    assert_eq!(row("-eo pid,time= -o cmd"), "20|01:02:03 sleep 1000");
}

/// As procps shows it: what is the process's in its own line only, what is a thread's in the threads' only.
#[test]
fn threads_stand_below_their_processes() {
    let rows = |arguments: &str| {
        let rows = shown(arguments).expect(arguments).rows;
        rows.iter().map(|row| row.join("|")).collect::<Vec<_>>()
    };
    assert_eq!(
        rows("m -o pid,lwp,stat,user,comm"),
        [
            "20|-|-|root|sleep",
            "-|20|Ss|root|-",
            "-|21|Ss|root|-",
            "30|-|-|root|worker",
            "-|30|Ss|root|-",
        ]
    );
    assert_eq!(
        rows("m -C worker"),
        ["30|?|-|62:03|worker two", "-|-|Ss|62:03|-"]
    );
}

#[test]
fn processes_are_chosen_sorted_and_shown_as_a_tree() {
    let pids = |arguments: &str| {
        let rows = shown(arguments).expect(arguments).rows;
        rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>()
    };
    for (arguments, expected) in [
        ("-o pid", &["20", "30"][..]),
        ("-o pid --sort=-pid", &["30", "20"]),
        ("-o pid k-pid", &["30", "20"]),
        ("-o pid --sort -args", &["30", "20"]),
        ("-o pid -C worker", &["30"]),
        ("-o pid -N -C worker", &["20"]),
        ("-o pid -p 20,99", &["20"]),
        ("-o pid --ppid 20", &["30"]),
        ("-o pid -u root", &["20", "30"]),
        ("-o pid -U 0", &["20", "30"]),
        ("-o pid -u ada", &[]),
        ("-o pid -C sleep -C worker", &["20", "30"]),
    ] {
        assert_eq!(pids(arguments), expected, "{arguments:?}");
    }
    let tree = shown("-o pid,cmd --forest").expect("good").rows;
    assert_eq!(tree, [["20", "sleep 1000"], ["30", "\\_ worker two"]]);
}

/// Of arguments that strangers send: a table or words, and the PID among the titles.
#[test]
fn nothing_a_client_sends_is_fatal() {
    proptest::proptest!(|(arguments in "[-a-zA-Z0-9=,%:é ]{0,40}")| {
        if let Ok(table) = shown(&arguments) {
            assert!(table.titles.iter().any(|title| title == "PID"));
            for row in &table.rows {
                assert_eq!(row.len(), table.titles.len());
            }
        }
    });
}
