//! BuildKit's `--progress=rawjson`: one `SolveStatus` (moby/buildkit, `client/graph.go`) a line.

use super::{Finding, Screen, Step};
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) struct Raw {
    steps: Vec<Step>,
    started: HashMap<usize, String>,
}

impl Raw {
    pub(super) fn new() -> Raw {
        Raw {
            steps: Vec::new(),
            started: HashMap::new(),
        }
    }

    /// A name for the step that stays the same through the build.
    fn digest(&self, step: usize) -> String {
        let title = self.steps.get(step).map(Step::title).unwrap_or_default();
        let bytes = Sha256::digest(format!("{step} {title}"));
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digits}")
    }

    fn vertex(&self, step: usize, more: &[(&str, Value)]) -> Value {
        let inputs: Vec<String> = self.steps.get(step).map_or_else(Vec::new, |found| {
            found.needs.iter().map(|need| self.digest(*need)).collect()
        });
        let mut vertex = Map::new();
        vertex.insert("digest".into(), self.digest(step).into());
        if !inputs.is_empty() {
            vertex.insert("inputs".into(), inputs.into());
        }
        let name = self.steps.get(step).map(Step::title).unwrap_or_default();
        vertex.insert("name".into(), name.into());
        if let Some(started) = self.started.get(&step) {
            vertex.insert("started".into(), started.clone().into());
        }
        for (key, value) in more {
            vertex.insert((*key).into(), value.clone());
        }
        json!({ "vertexes": [vertex] })
    }

    fn print(&self, status: &Value) -> Result<()> {
        eprintln!("{status}");
        Ok(())
    }
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.format(&Rfc3339).unwrap_or_default()
}

impl Screen for Raw {
    fn planned(&mut self, steps: &[Step]) -> Result<()> {
        self.steps = steps.to_vec();
        for step in 0..self.steps.len() {
            self.print(&self.vertex(step, &[]))?;
        }
        Ok(())
    }

    fn started(&mut self, step: usize) -> Result<()> {
        self.started.insert(step, now());
        self.print(&self.vertex(step, &[]))
    }

    fn output(&mut self, step: usize, stream: u8, bytes: &[u8]) -> Result<()> {
        self.print(&json!({"logs": [{
            "vertex": self.digest(step),
            "stream": stream,
            "data": STANDARD.encode(bytes),
            "timestamp": now(),
        }]}))
    }

    fn pulling(&mut self, step: usize, progress: &Value) -> Result<()> {
        let id = [&progress["id"], &progress["status"]]
            .into_iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" ");
        self.print(&json!({"statuses": [{
            "id": id,
            "vertex": self.digest(step),
            "current": progress["progressDetail"]["current"].as_u64().unwrap_or_default(),
            "total": progress["progressDetail"]["total"].as_u64().unwrap_or_default(),
            "timestamp": now(),
        }]}))
    }

    fn done(&mut self, step: usize, cached: bool) -> Result<()> {
        let mut more = vec![("completed", now().into())];
        if cached {
            more.push(("cached", true.into()));
        }
        self.print(&self.vertex(step, &more))
    }

    fn failed(&mut self, step: usize, message: &str) -> Result<()> {
        let more = [("completed", now().into()), ("error", message.into())];
        self.print(&self.vertex(step, &more))
    }

    fn warning(&mut self, text: &str) -> Result<()> {
        self.print(&json!({"warnings": [{"level": 1, "short": STANDARD.encode(text)}]}))
    }

    fn finding(&mut self, finding: &Finding) -> Result<()> {
        let short = format!(
            "{}: {} (line {})",
            finding.rule, finding.message, finding.line
        );
        self.print(&json!({"warnings": [{
            "level": 1,
            "short": STANDARD.encode(short),
            "detail": [STANDARD.encode(&finding.description)],
        }]}))
    }

    fn note(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_vertex_with_its_inputs() {
        let mut raw = Raw::new();
        let step = |text: &str, needs: &[usize]| Step {
            text: text.into(),
            number: 1,
            of: 1,
            needs: needs.to_vec(),
            ..Step::default()
        };
        raw.steps = vec![step("FROM a", &[]), step("RUN b", &[0])];
        let vertex = &raw.vertex(1, &[("cached", true.into())])["vertexes"][0];
        assert_eq!(vertex["name"], "[stage-0 1/1] RUN b");
        assert_eq!(vertex["inputs"], json!([raw.digest(0)]));
        assert_eq!(vertex["cached"], true);
        assert_eq!(vertex.get("started"), None);
    }
}
