//! Activation checkpointing: what the backward pass computes again instead of having kept it.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, Var,
};

use super::cpu;
use super::gradients::{backward, deliver};

type Part = Arc<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// `part` of one to three tensors. Only they and the result are kept for the backward pass, which
/// runs `part` again; the weights in it get their gradients if that pass is [`backward`].
///
/// At least one input must want a gradient, otherwise `part` runs like any other operation.
pub fn recomputed(
    inputs: &[&Tensor],
    part: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let detached: Vec<Tensor> = inputs.iter().map(|input| input.detach()).collect();
    let tracked = inputs.iter().any(|input| input.track_op());
    if !tracked || !cpu::takes(inputs) {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| (*input).clone()).collect();
        return part(&inputs);
    }
    let result = part(&detached)?.detach().contiguous()?;
    let op = RecomputedOp { part: Arc::new(part), result };
    match inputs {
        [a] => a.apply_op1(op),
        [a, b] => a.apply_op2(b, op),
        [a, b, c] => a.apply_op3(b, c, op),
        _ => candle_core::bail!("a part of {} inputs cannot be computed again", inputs.len()),
    }
}

struct RecomputedOp {
    part: Part,
    /// Of the first run.
    result: Tensor,
}

impl RecomputedOp {
    fn forward(&self) -> Result<(CpuStorage, Shape)> {
        let values = cpu::with_slice(&self.result, <[f32]>::to_vec)?;
        Ok(cpu::output(values, self.result.shape()))
    }

    /// Runs the part with a graph and goes back through it.
    fn gradients(&self, inputs: &[&Tensor], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let variables =
            inputs.iter().map(|input| Var::from_tensor(input)).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let loss = ((self.part)(&tensors)? * gradient)?.sum_all()?;
        let mut gradients = backward(&loss)?;
        let by_inputs = variables.iter().map(|variable| gradients.remove(variable)).collect();
        for weight in loss.sorted_nodes().into_iter().filter(|node| node.is_variable()) {
            let Some(gradient) = gradients.remove(weight) else { continue };
            if deliver(weight, gradient)?.is_some() {
                candle_core::bail!("weights in a recomputed part need `any2pix_nn::backward`")
            }
        }
        Ok(by_inputs)
    }
}

impl CustomOp1 for RecomputedOp {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.gradients(&[a], gradient)?.swap_remove(0))
    }
}

impl CustomOp2 for RecomputedOp {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut by = self.gradients(&[a, b], gradient)?.into_iter();
        Ok((by.next().flatten(), by.next().flatten()))
    }
}

impl CustomOp3 for RecomputedOp {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut by = self.gradients(&[a, b, c], gradient)?.into_iter();
        Ok((by.next().flatten(), by.next().flatten(), by.next().flatten()))
    }
}
