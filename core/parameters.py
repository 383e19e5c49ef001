"""What a network costs, counted from its records alone: parameters, multiply-accumulates, bytes; and its curves.

No network is built and neither Keras nor TensorFlow is imported; pandas and SciPy are imported by the functions that
need them, so that counting costs a worker or a command line no start-up time.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.architectures import BatchNorm, Conv, Dense, NetworkSpec, Residual, Step, walk

BYTES_A_NUMBER = 4  # float32
ADAM_SLOTS = 2  # first and second moment of every learnable parameter


@dataclass(frozen=True, slots=True)
class Cost:
    """What one layer or one network costs.

    parameters: learnable numbers. statistics: batch normalisation's running means and variances, which are saved but
    not learnt. macs: multiply-accumulates of one image's forward pass, one for each weight at each output position of
    convolutions and dense layers; biases, pooling, normalisation, activations and the residual sum are not counted.
    """

    parameters: int = 0
    statistics: int = 0
    macs: int = 0

    @property
    def bytes_weights(self) -> int:
        """Bytes of what a weights file holds, in float32: learnable parameters and running statistics.

        A real file adds its container's headers, some tens of kilobytes.
        """
        return BYTES_A_NUMBER * (self.parameters + self.statistics)

    @property
    def bytes_with_optimizer(self) -> int:
        """Bytes of a checkpoint that training can go on from: weights and Adam's two moments of each parameter.

        Adam's step counter and learning rate, two numbers, are not counted.
        """
        return self.bytes_weights + BYTES_A_NUMBER * ADAM_SLOTS * self.parameters


def convolution_cost(kernel: int, channels: int, filters: int, positions: int) -> tuple[int, int]:
    """Return parameters (with biases) and MACs of a convolution with `positions` output pixels."""
    weights = kernel * kernel * channels * filters
    return weights + filters, weights * positions


def layer_cost(step: Step) -> Cost:
    """Return what a layer costs in its place."""
    shape = step.input_shape
    match step.layer:
        case Conv(filters, kernel):
            height, width, _ = step.output_shape
            parameters, macs = convolution_cost(kernel, shape[2], filters, height * width)
            return Cost(parameters, 0, macs)
        case Dense(units):
            return Cost(shape[0] * units + units, 0, shape[0] * units)
        case BatchNorm():
            return Cost(2 * shape[-1], 2 * shape[-1], 0)
        case Residual(filters, kernel):
            height, width, channels = shape
            first = convolution_cost(kernel, channels, filters, height * width)
            second = convolution_cost(kernel, filters, filters, height * width)
            projection = convolution_cost(1, channels, filters, height * width) if channels != filters else (0, 0)
            normalisation = 2 * 2 * filters  # gamma and beta, or mean and variance, of two layers
            return Cost(
                first[0] + second[0] + projection[0] + normalisation,
                normalisation,
                first[1] + second[1] + projection[1],
            )
        case _:
            return Cost()


def network_cost(spec: NetworkSpec, height: int, width: int) -> Cost:
    """Return what a network costs for images of height × width; raises SpecError where the size is too small."""
    costs = [layer_cost(step) for step in walk(spec, height, width)]
    return Cost(
        sum(cost.parameters for cost in costs),
        sum(cost.statistics for cost in costs),
        sum(cost.macs for cost in costs),
    )


def count_parameters(spec: NetworkSpec, height: int, width: int) -> int:
    """Return the learnable parameters for images of height × width, as Keras counts trainable ones."""
    return network_cost(spec, height, width).parameters
