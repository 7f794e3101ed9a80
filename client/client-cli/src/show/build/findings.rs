//! What lint rules found: all of it (`--check`), or a few words at the end of a build.

use super::{Finding, Screen, Step};
use anyhow::Result;
use serde_json::Value;

/// `2 warnings found ...`; `None` where there are none.
pub(super) fn summary(findings: &[Finding]) -> Option<String> {
    if findings.is_empty() {
        return None;
    }
    let mut text = format!("{} found (use --check to expand):\n", count(findings.len()));
    for finding in findings {
        text.push_str(&format!(
            " - {}: {} (line {})\n",
            finding.rule, finding.message, finding.line
        ));
    }
    Some(text)
}

fn count(number: usize) -> String {
    match number {
        1 => "1 warning".to_owned(),
        number => format!("{number} warnings"),
    }
}

/// `--check`: findings and nothing else.
pub(super) struct Findings {
    dockerfile: String,
    found: usize,
}

impl Findings {
    pub(super) fn new(dockerfile: &str) -> Findings {
        Findings {
            dockerfile: dockerfile.to_owned(),
            found: 0,
        }
    }

    fn text(&self, finding: &Finding) -> String {
        let ruler = "-".repeat(20);
        format!(
            "\nWARNING: {}\n{}\n{}\n{}:{}\n{ruler}\n{:>4} | >>> {}\n{ruler}\n",
            finding.rule,
            finding.description,
            finding.message,
            self.dockerfile,
            finding.line,
            finding.line,
            finding.shown
        )
    }
}

impl Screen for Findings {
    fn planned(&mut self, _: &[Step]) -> Result<()> {
        Ok(())
    }
    fn started(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
    fn output(&mut self, _: usize, _: u8, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn pulling(&mut self, _: usize, _: &Value) -> Result<()> {
        Ok(())
    }
    fn done(&mut self, _: usize, _: bool) -> Result<()> {
        Ok(())
    }
    fn failed(&mut self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }

    fn warning(&mut self, text: &str) -> Result<()> {
        eprintln!("WARNING: {text}");
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> Result<()> {
        self.found += 1;
        crate::show::print(&self.text(finding))
    }

    fn note(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let text = match self.found {
            0 => "Check complete, no warnings found.\n".to_owned(),
            found => format!("\nCheck complete, {} found!\n", count(found)),
        };
        crate::show::print(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding {
            rule: "StageNameCasing".into(),
            message: "Stage name 'A' should be lowercase".into(),
            description: "Stage names should be lowercase".into(),
            line: 3,
            shown: "FROM scratch AS A".into(),
        }
    }

    #[test]
    fn a_finding_is_shown_with_its_line() {
        assert_eq!(
            Findings::new("sub/Dockerfile").text(&finding()),
            "\nWARNING: StageNameCasing\nStage names should be lowercase\nStage name 'A' should be lowercase\nsub/Dockerfile:3\n--------------------\n   3 | >>> FROM scratch AS A\n--------------------\n"
        );
    }

    #[test]
    fn several_are_counted() {
        assert_eq!(summary(&[]), None);
        let text = summary(&[finding(), finding()]).expect("two");
        assert!(text.starts_with("2 warnings found"), "{text}");
    }
}
