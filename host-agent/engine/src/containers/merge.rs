//! What the creator says, completed by what the image says.

use super::spec::Config;
use crate::images::{Healthcheck, ImageConfig};

/// Docker's search path where neither image nor creator has one.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fills what `config` leaves open from the image, by Docker's rules (moby `daemon/commit.go`, `merge`).
pub fn with_image(mut config: Config, image: &ImageConfig) -> Config {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    config
        .exposed_ports
        .extend(image.exposed_ports.iter().cloned());
    config.env = merge_env(&image.env, &config.env);
    for (name, value) in &image.labels {
        if !config.labels.contains_key(name) {
            config.labels.insert(name.clone(), value.clone());
        }
    }
    // An entry point of the creator's makes the image's command meaningless: its arguments were for the other program.
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` comes as [""]: no entry point at all.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    if config.working_directory.is_empty() {
        config
            .working_directory
            .clone_from(&image.working_directory);
    }
    config.volumes.extend(image.volumes.iter().cloned());
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    config.healthcheck = merge_healthcheck(config.healthcheck, image.healthcheck.as_ref());
    config
}

fn merge_healthcheck(own: Option<Healthcheck>, image: Option<&Healthcheck>) -> Option<Healthcheck> {
    let Some(image) = image else { return own };
    let Some(mut own) = own else {
        return Some(image.clone());
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (mine, theirs) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.retries, image.retries),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
    ] {
        if *mine == 0 {
            *mine = theirs;
        }
    }
    Some(own)
}

fn env_name(entry: &str) -> &str {
    entry.split('=').next().unwrap_or(entry)
}

/// The image's variables that `own` does not set come after `own`, as in Docker.
pub fn merge_env(image: &[String], own: &[String]) -> Vec<String> {
    let mut merged = own.to_vec();
    for entry in image {
        if !own.iter().any(|mine| env_name(mine) == env_name(entry)) {
            merged.push(entry.clone());
        }
    }
    merged
}

/// Puts `overrides` over `base`: same names are replaced in place, a name without `=` removes the variable.
pub fn replace_env(base: &mut Vec<String>, overrides: &[String]) {
    for entry in overrides {
        let name = env_name(entry);
        let place = base.iter().position(|old| env_name(old) == name);
        match (entry.contains('='), place) {
            (true, Some(place)) => base[place].clone_from(entry),
            (true, None) => base.push(entry.clone()),
            (false, Some(place)) => {
                base.remove(place);
            }
            (false, None) => {}
        }
    }
}

/// What a process sees: PATH, HOSTNAME and TERM first, the container's own variables over them. HOME is the runtime's
/// matter: it reads the container's /etc/passwd.
pub fn process_env(hostname: &str, tty: bool, own: &[String]) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".into());
    }
    replace_env(&mut env, own);
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            user: "web".into(),
            env: words(&["PATH=/bin", "A=image"]),
            entrypoint: Some(words(&["/entry"])),
            cmd: Some(words(&["serve"])),
            working_directory: "/srv".into(),
            ..ImageConfig::default()
        }
    }

    #[track_caller]
    fn check(cmd: Option<&[&str]>, entrypoint: Option<&[&str]>, expected: &[&str]) {
        let config = Config {
            cmd: cmd.map(words),
            entrypoint: entrypoint.map(words),
            ..Config::default()
        };
        let merged = with_image(config, &image());
        let all: Vec<String> = merged
            .entrypoint
            .iter()
            .flatten()
            .chain(merged.cmd.iter().flatten())
            .cloned()
            .collect();
        assert_eq!(all, words(expected));
    }

    #[test]
    fn entry_point_and_command() {
        check(None, None, &["/entry", "serve"]);
        check(Some(&["test"]), None, &["/entry", "test"]);
        check(None, Some(&["/mine"]), &["/mine"]);
        check(Some(&["x"]), Some(&["/mine"]), &["/mine", "x"]);
        // `--entrypoint ""` with a command of one's own.
        check(Some(&["sh"]), Some(&[""]), &["sh"]);
        check(Some(&[]), None, &["/entry", "serve"]);
    }

    #[test]
    fn the_creator_wins_over_the_image() {
        let config = Config {
            env: words(&["A=mine", "B=1"]),
            user: "me".into(),
            ..Config::default()
        };
        let merged = with_image(config, &image());
        assert_eq!(merged.env, words(&["A=mine", "B=1", "PATH=/bin"]));
        assert_eq!(merged.user, "me");
        assert_eq!(merged.working_directory, "/srv");
    }

    #[test]
    fn a_process_gets_path_hostname_and_term() {
        let env = process_env("box", true, &words(&["TERM=dumb", "X=1"]));
        assert_eq!(
            env,
            words(&[DEFAULT_PATH, "HOSTNAME=box", "TERM=dumb", "X=1"])
        );
        let env = process_env("box", false, &words(&["PATH"]));
        assert_eq!(env, words(&["HOSTNAME=box"]));
    }

    proptest! {
        #[test]
        fn no_name_is_there_twice(image in proptest::collection::vec("[AB]=[0-9]", 0..4)) {
            let own = words(&["A=own"]);
            let merged = merge_env(&image, &own);
            prop_assert_eq!(merged.iter().filter(|entry| env_name(entry) == "A").count(), 1);
            prop_assert_eq!(merged[0].as_str(), "A=own");
        }
    }
}
