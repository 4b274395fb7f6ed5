//! `Verdict`: two scores from what a judge says, strictly.

use serde::Deserialize;

/// Longest answer that is looked at, in bytes.
const LONGEST: usize = 64 << 10;

/// What a judge says of one question.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// From 0 to 10 each.
    pub score: [f64; 2],
    /// Why.
    pub reasoning: String,
}

impl Verdict {
    /// One JSON object with nothing around it but white space or a fence of Markdown.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let text = text.trim();
        let fenced = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
        let text = fenced.map_or(text, |inside| inside.strip_prefix("json").unwrap_or(inside));
        let verdict: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match verdict.score.iter().find(|score| !(0.0..=10.0).contains(*score)) {
            Some(score) => Err(format!("a score of {score} is not between 0 and 10")),
            None => Ok(verdict),
        }
    }

    /// The published rule: the worse score counts.
    pub fn lowest(&self) -> f64 {
        self.score[0].min(self.score[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_two_scores_and_nothing_else() {
        let good = r#"{"score": [7, 2.5], "reasoning": "the dog is there"}"#;
        assert_eq!(Verdict::parse(good).unwrap().lowest(), 2.5);
        assert!(Verdict::parse(&format!("```json\n{good}\n```")).is_ok());
        let cases = [
            "",
            "I give it a 7.",
            r#"{"score": [7], "reasoning": ""}"#,
            r#"{"score": [7, 8, 9], "reasoning": ""}"#,
            r#"{"score": [7, 11], "reasoning": ""}"#,
            r#"{"score": [-1, 3], "reasoning": ""}"#,
            r#"{"score": ["7", 3], "reasoning": ""}"#,
            r#"{"score": [null, 3], "reasoning": ""}"#,
            r#"{"score": [7, 3]}"#,
            r#"{"score": [7, 3], "reasoning": "", "more": 1}"#,
        ];
        for case in cases {
            assert!(Verdict::parse(case).is_err(), "{case}");
        }
        assert!(Verdict::parse(&format!("Sure! {good}")).is_err());
        assert!(Verdict::parse(&format!("{good} {good}")).is_err());
    }
}
