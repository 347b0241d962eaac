// Trains two steps through robocache::resample with C++ autograd: a module that learns how late a sensor's clock runs.
//
//     train
//
// A camera's stamps lag behind the joints' by an unknown latency. Resampling is differentiable in the target times, so
// gradient descent finds the latency (and the sensor's gain, through the values) from the signals alone.

#include <robocache/robocache.h>
#include <torch/torch.h>

#include <cstdio>
#include <exception>
#include <iostream>

namespace {

constexpr double LATENCY = 0.03; // seconds, what training should move towards
constexpr double RATE = 100.0; // hertz, of the joints
constexpr int64_t SAMPLES = 200;

struct SensorModelImpl : torch::nn::Module {
  SensorModelImpl() {
    latency = register_parameter("latency", torch::zeros({}, torch::kDouble)); // seconds
    gain = register_parameter("gain", torch::full({}, 0.8, torch::kDouble));
  }

  // The sensor's readings [B, T, D], as the joints `values` [B, S, D] with `times` [S] in seconds predict them at
  // `stamps` [T] in seconds.
  torch::Tensor forward(const torch::Tensor& values, const torch::Tensor& times, const torch::Tensor& stamps) {
    return robocache::resample(values * gain, times, stamps - latency);
  }

  torch::Tensor latency, gain;
};
TORCH_MODULE(SensorModel);

void train() {
  const auto times = torch::arange(SAMPLES, torch::kDouble) / RATE; // [S], seconds
  const auto frequency = torch::tensor({0.5, 0.75, 1.0}, torch::kDouble); // [D], hertz
  const auto motion = [&](const torch::Tensor& seconds) {
    return torch::sin(seconds.unsqueeze(1) * frequency * 6.0).unsqueeze(0); // [1, S, D], radians
  };
  const auto stamps = torch::arange(50, torch::kDouble) / 30.0 + 0.1; // [T], seconds: a camera at 30 hertz
  const auto readings = motion(stamps - LATENCY); // [1, T, D], radians

  SensorModel model;
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05));
  for (int step = 0; step <= 2; ++step) {
    optimizer.zero_grad();
    const auto loss = torch::mse_loss(model->forward(motion(times), times, stamps), readings);
    // 17 digits give back every bit of a double.
    std::printf(
        "step %d loss %.17g latency %.17g gain %.17g\n",
        step,
        loss.item<double>(),
        model->latency.item<double>(),
        model->gain.item<double>());
    if (step < 2) {
      loss.backward();
      optimizer.step();
    }
  }
}

} // namespace

int main() {
  try {
    train();
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
