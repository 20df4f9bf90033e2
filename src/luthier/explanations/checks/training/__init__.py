"""Errors of autograd, optimizers, schedules, mixed precision, modules and several processes."""

from luthier.explanations.checks.evidence import of_torch as of_torch
from luthier.explanations.checks.training.modules import before_init as before_init
from luthier.explanations.checks.training.modules import compile_failed as compile_failed
from luthier.explanations.checks.training.modules import forward_arguments as forward_arguments
from luthier.explanations.checks.training.modules import forward_missing as forward_missing
from luthier.explanations.checks.training.modules import gradient_is_none as gradient_is_none
from luthier.explanations.checks.training.modules import layer_not_there as layer_not_there
from luthier.explanations.checks.training.modules import of_module_attribute as of_module_attribute
from luthier.explanations.checks.training.modules import output_is_none as output_is_none
from luthier.explanations.checks.training.modules import output_is_several as output_is_several
from luthier.explanations.checks.training.modules import weights_instead as weights_instead
from luthier.explanations.checks.training.processes import collective_timeout as collective_timeout
from luthier.explanations.checks.training.processes import ddp_shapes as ddp_shapes
from luthier.explanations.checks.training.processes import ddp_twice as ddp_twice
from luthier.explanations.checks.training.processes import ddp_unused as ddp_unused
from luthier.explanations.checks.training.processes import in_distributed as in_distributed
from luthier.explanations.checks.training.processes import nccl_failed as nccl_failed
from luthier.explanations.checks.training.processes import of_nccl as of_nccl
from luthier.explanations.checks.training.processes import port_in_use as port_in_use
from luthier.explanations.checks.training.processes import rank_failed as rank_failed
from luthier.explanations.checks.training.processes import variable_missing as variable_missing
from luthier.explanations.checks.training.steps import as_text as as_text
from luthier.explanations.checks.training.steps import at_its_end as at_its_end
from luthier.explanations.checks.training.steps import carried_over as carried_over
from luthier.explanations.checks.training.steps import changed_in_place as changed_in_place
from luthier.explanations.checks.training.steps import flag_of_result as flag_of_result
from luthier.explanations.checks.training.steps import half_parameters as half_parameters
from luthier.explanations.checks.training.steps import in_optimizer as in_optimizer
from luthier.explanations.checks.training.steps import in_schedule as in_schedule
from luthier.explanations.checks.training.steps import inference_tensor as inference_tensor
from luthier.explanations.checks.training.steps import loss_diverged as loss_diverged
from luthier.explanations.checks.training.steps import nan_in_backward as nan_in_backward
from luthier.explanations.checks.training.steps import not_finite as not_finite
from luthier.explanations.checks.training.steps import not_scalar as not_scalar
from luthier.explanations.checks.training.steps import of_integers as of_integers
from luthier.explanations.checks.training.steps import of_modules as of_modules
from luthier.explanations.checks.training.steps import of_optimizer as of_optimizer
from luthier.explanations.checks.training.steps import (
    state_of_another_shape as state_of_another_shape,
)
from luthier.explanations.checks.training.steps import under_no_grad as under_no_grad
from luthier.explanations.checks.training.steps import verbose as verbose
from luthier.explanations.checks.training.steps import weights_changed as weights_changed
from luthier.explanations.checks.training.steps import without_closure as without_closure
from luthier.explanations.checks.training.steps import without_gradient as without_gradient
from luthier.explanations.checks.training.steps import without_metric as without_metric
from luthier.explanations.checks.training.steps import without_parameters as without_parameters
