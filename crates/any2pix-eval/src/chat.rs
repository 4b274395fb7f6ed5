//! Models that are asked through OpenAI's chat protocol: where, and what of an answer is read.

use serde::Deserialize;

/// Takes a request of the chat protocol to a model and brings the answer back, both JSON.
pub trait Endpoint: Sync {
    /// The body of the answer, or why there is none.
    fn complete(&self, request: &[u8]) -> Result<Vec<u8>, String>;
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

/// What a model said first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Its words.
    pub(crate) text: String,
    /// It was not done, but had said as much as it may.
    pub(crate) is_cut_off: bool,
}

impl Reply {
    pub(crate) fn read(answer: &[u8]) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(answer)
            .map_err(|e| format!("the endpoint's answer is not of the chat protocol: {e}"))?;
        let without_text = || "the endpoint's answer has no text".to_string();
        let choice = answer.choices.into_iter().next().ok_or_else(without_text)?;
        let is_cut_off = choice.finish_reason.as_deref() == Some("length");
        let text = choice.message.content.ok_or_else(without_text)?;
        Ok(Self { text, is_cut_off })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_text_says_so() {
        let answer = br#"{"choices": [{"message": {"content": "hello"}}]}"#;
        let reply = Reply::read(answer).unwrap();
        assert_eq!((reply.text.as_str(), reply.is_cut_off), ("hello", false));
        let answer = br#"{"choices": [{"message": {"content": "h"}, "finish_reason": "length"}]}"#;
        assert!(Reply::read(answer).unwrap().is_cut_off);
        assert!(Reply::read(br#"{"choices": []}"#).unwrap_err().contains("no text"));
        assert!(Reply::read(br#"{"error": "x"}"#).unwrap_err().contains("chat protocol"));
    }
}
