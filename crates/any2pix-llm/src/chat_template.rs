//! `ChatTemplate`: the frame of words around an instruction; its strings live in `prompts/`.

use serde::Deserialize;

use crate::error::LlmError;
use crate::instruction::Piece;
use crate::tokenizer::{ControlTokens, Segment};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChatTemplate {
    /// Stands before the turn; may be empty.
    pub system: String,
    /// Names the user.
    pub user: String,
    /// Names the assistant.
    pub assistant: String,
    /// What every answer begins with.
    pub preamble: String,
}

const VICUNA_V1: &str = include_str!("../../../prompts/chat/vicuna_v1.json");
const PLAYROOM: &str = include_str!("../../../prompts/chat/playroom.json");

impl ChatTemplate {
    /// The template of that name: `vicuna_v1` or `playroom`.
    pub fn named(name: &str) -> Result<Self, LlmError> {
        let text = match name {
            "vicuna_v1" => VICUNA_V1,
            "playroom" => PLAYROOM,
            _ => {
                let reason = format!("there is no template `{name}`");
                return Err(LlmError::Config { key: "chat_template", reason });
            }
        };
        serde_json::from_str(text)
            .map_err(|e| LlmError::Config { key: "chat_template", reason: e.to_string() })
    }

    /// The prompt up to the place where the answer begins.
    pub fn prompt(&self, instruction: &[Piece], control: &ControlTokens) -> Vec<Segment> {
        let mut head = self.system.clone();
        if !head.is_empty() {
            head.push(' ');
        }
        head.push_str(&format!("{}: ", self.user));
        let mut segments = vec![Segment::Text(head)];
        segments.extend(instruction.iter().map(|piece| match piece {
            Piece::Text(text) => Segment::Text(text.clone()),
            Piece::Media(..) => Segment::Control(control.video),
        }));
        segments.push(Segment::Text(format!(" {}:", self.assistant)));
        segments
    }
}
