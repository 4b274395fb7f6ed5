//! `names.toml`, and tensors under other names.

use std::collections::HashMap;

use any2pix_nn::Checkpoint;
use any2pix_nn::checkpoint::Names;
use candle_core::{DType, Device, Tensor};

use crate::{llama, numbers};

fn checkpoint(names: &[&str]) -> Checkpoint {
    let tensor = |i: usize| Tensor::full(i as f32, 2, &Device::Cpu).unwrap();
    let named = names.iter().enumerate().map(|(i, name)| ((*name).to_string(), tensor(i)));
    Checkpoint::from_tensors("test", named.collect::<HashMap<_, _>>())
}

const RULES: &str = r#"
rename = [
    { from = "model.diffusion_model.*", to = "unet.*" },
    { from = "*.gamma", to = "*.weight" },
    { from = "scale", to = "scheduler.scale" },
]

[[ignore]]
prefix = "vision_tower."
reason = "the method never reads it"
"#;

#[test]
fn rules_replace_prefixes_suffixes_and_names_and_the_first_wins() {
    let names = Names::from_toml("names.toml", RULES).unwrap();
    let published =
        ["model.diffusion_model.norm.gamma", "norm.gamma", "scale", "vision_tower.a", "rest"];
    let renamed = checkpoint(&published).with_names(&names).unwrap();
    let expected = ["norm.weight", "rest", "scheduler.scale", "unet.norm.gamma", "vision_tower.a"];
    assert_eq!(renamed.names(), expected);
    assert_eq!(numbers(&renamed, "unet.norm.gamma"), [0.0, 0.0]);
    assert_eq!(numbers(&renamed, "scheduler.scale"), [2.0, 2.0]);
    let error = renamed.finish(&[]).unwrap_err().to_string();
    assert!(error.contains("2 tensors") && error.contains("norm.weight"), "{error}");
    renamed.finish(&["norm.", "rest"]).unwrap();
}

#[test]
fn rules_that_cannot_be_are_refused() {
    for (text, reason) in [
        (r#"rename = [{ from = "a.*", to = "b" }]"#, "`a.*` cannot become `b`"),
        (r#"rename = [{ from = "a.*", to = "*.b" }]"#, "`a.*` cannot become `*.b`"),
        (r#"rename = [{ from = "a.*.b*", to = "b*" }]"#, "cannot become"),
        (r#"ignore = [{ prefix = "a" }]"#, "reason"),
        (r#"ignored = []"#, "ignored"),
        ("rename = 3", "names.toml"),
    ] {
        let error = Names::from_toml("names.toml", text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let names = r#"rename = [{ from = "a.*", to = "b.*" }]"#;
    let names = Names::from_toml("names.toml", names).unwrap();
    let error = checkpoint(&["a.w", "b.w"]).with_names(&names).err().unwrap().to_string();
    assert!(error.contains("`b.w`"), "{error}");
}

#[test]
fn rows_are_put_in_order_with_and_without_blocks() {
    for file in ["model-F32.gguf", "model-Q8_0.gguf", "model-Q4_1.gguf"] {
        let before = Checkpoint::open(llama().join(file)).unwrap();
        let name = "blk.0.attn_q.weight";
        let order: Vec<u32> = (0..64).rev().collect();
        let reversed = |c: &Checkpoint| c.with_rows(|n| (n == name).then(|| order.clone()));
        let after = reversed(&before).unwrap();
        let (a, b) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
        let order = Tensor::new(order.as_slice(), &Device::Cpu).unwrap();
        let expected = a.index_select(&order, 0).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(b.to_vec2::<f32>().unwrap(), expected);
        if let Some(blocks) = after.quantised(name).unwrap() {
            let blocks = blocks.dequantize(&Device::Cpu).unwrap();
            assert_eq!(blocks.to_vec2::<f32>().unwrap(), expected);
        }
        assert_eq!(numbers(&reversed(&after).unwrap(), name), numbers(&before, name));
        for wrong in [vec![0; 64], (0..63).collect(), (1..65).collect()] {
            assert!(before.with_rows(|n| (n == name).then(|| wrong.clone())).is_err());
        }
    }
}

#[test]
fn parts_and_joined_files_read_what_their_wholes_read() {
    let whole = checkpoint(&["image_proj.w", "ip_adapter.w"]);
    let (a, b) = (whole.part("image_proj."), whole.part("ip_adapter."));
    whole.finish(&[]).unwrap();
    assert_eq!(numbers(&b, "w"), [1.0, 1.0]);
    let error = a.joined(&b).err().unwrap().to_string();
    assert!(error.contains("`w` is in test"), "{error}");
    let other = checkpoint(&["x"]);
    let both = a.joined(&other).unwrap();
    assert_eq!(both.names(), ["w", "x"]);
    both.builder(DType::F32, &Device::Cpu).get(2, "w").unwrap();
    assert!(both.finish(&[]).unwrap_err().to_string().contains("`x`"));
}
