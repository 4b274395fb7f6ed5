//! What a language model is asked for an edit of a caption, and what of its answer is taken.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Triplet;
use crate::chat::Reply;

const SYSTEM: &str = include_str!("../../../../prompts/instruct_pix2pix/triplets.txt");
const FORM: &str = include_str!("../../../../prompts/instruct_pix2pix/triplets.json");

/// How captions, instructions and edited captions are told apart, with examples.
#[derive(Deserialize)]
pub(super) struct Form {
    after_caption: String,
    between: String,
    end: String,
    examples: Vec<Triplet>,
}

impl Form {
    pub(super) fn read() -> Result<Self, String> {
        serde_json::from_str(FORM).map_err(|e| format!("triplets.json: {e}"))
    }

    /// What of it decides what a model answers.
    pub(super) fn text() -> String {
        format!("{SYSTEM}{FORM}")
    }

    /// A request of the chat protocol, with the published program's parameters.
    pub(super) fn request(&self, model: &str, caption: &str) -> Vec<u8> {
        let mut messages = vec![message("system", SYSTEM.trim_end().to_string())];
        for Triplet { caption, edit, output, .. } in &self.examples {
            messages.push(message("user", format!("{caption}{}", self.after_caption)));
            let said = format!("{edit}{}{output}{}", self.between, self.end);
            messages.push(message("assistant", said));
        }
        messages.push(message("user", format!("{caption}{}", self.after_caption)));
        let request = json!({
            "model": model,
            "messages": messages,
            "max_tokens": 256,
            "temperature": 0.7,
            "top_p": 1,
            "frequency_penalty": 0.1,
            "presence_penalty": 0,
            "stop": self.end,
        });
        request.to_string().into_bytes()
    }

    /// Instruction and edited caption of an answer to `caption`, or what is wrong with it.
    pub(super) fn parse(
        &self,
        caption: &str,
        answer: &[u8],
    ) -> Result<(String, String), &'static str> {
        let reply = Reply::read(answer).map_err(|_| "not of the chat protocol")?;
        if reply.is_cut_off {
            return Err("cut off");
        }
        let said = reply.text;
        // A server may not know what it should stop at.
        let said = said.split(&self.end).next().unwrap_or_default();
        let parts: Vec<&str> = said.split(&self.between).map(str::trim).collect();
        let [edit, output] = parts[..] else { return Err("not two parts") };
        if edit.is_empty() || output.is_empty() {
            return Err("an empty part");
        }
        if edit.contains('\n') || output.contains('\n') {
            return Err("a part of several lines");
        }
        if normalised(output) == normalised(caption) {
            return Err("nothing changed");
        }
        Ok((edit.to_string(), output.to_string()))
    }
}

fn message(role: &str, content: String) -> Value {
    json!({ "role": role, "content": content })
}

/// As the published program compares captions.
fn normalised(caption: &str) -> String {
    caption.trim().trim_matches(['.', '!', '?']).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(said: &str) -> Result<(String, String), &'static str> {
        let answer = json!({ "choices": [{ "message": { "content": said } }] });
        Form::read().unwrap().parse("A dog.", answer.to_string().as_bytes())
    }

    #[test]
    fn an_answer_has_two_parts_of_which_the_second_is_new() {
        let pair = |edit: &str, output: &str| Ok((edit.to_string(), output.to_string()));
        assert_eq!(parse("make it a cat\n%%\nA cat."), pair("make it a cat", "A cat."));
        assert_eq!(parse(" x \n%%\n y \nEND\nmore\n%%\n"), pair("x", "y"));
        for (said, fault) in [
            ("", "not two parts"),
            ("make it a cat", "not two parts"),
            ("a\n%%\nb\n%%\nc", "not two parts"),
            ("a\n%%\n ", "an empty part"),
            ("Sure!\nmake it a cat\n%%\nA cat.", "a part of several lines"),
            ("sit\n%%\na dog!", "nothing changed"),
        ] {
            assert_eq!(parse(said), Err(fault), "{said}");
        }
        let form = Form::read().unwrap();
        assert_eq!(form.parse("x", b"{}"), Err("not of the chat protocol"));
        let cut = json!({ "choices": [{ "message": { "content": "a\n%%\nb" }, "finish_reason": "length" }] });
        assert_eq!(form.parse("x", cut.to_string().as_bytes()), Err("cut off"));
    }

    #[test]
    fn examples_stand_in_the_published_form_and_would_be_taken() {
        let form = Form::read().unwrap();
        let request: Value = serde_json::from_slice(&form.request("m", "a dog")).unwrap();
        let messages = request["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 2 * form.examples.len() + 2);
        assert_eq!(messages[messages.len() - 1]["content"], json!("a dog\n##\n"));
        for turns in messages[1..messages.len() - 1].chunks(2) {
            let caption = turns[0]["content"].as_str().unwrap().strip_suffix("\n##\n").unwrap();
            let said = &turns[1]["content"];
            assert!(said.as_str().unwrap().ends_with("\nEND"));
            let answer = json!({ "choices": [{ "message": { "content": said } }] });
            form.parse(caption, answer.to_string().as_bytes()).unwrap();
        }
        assert_eq!(request["stop"], json!("\nEND"));
    }
}
