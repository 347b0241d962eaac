// Operators of any schema that do nothing but allocate their results: what `torch.ops` itself takes for a call.
// `benches/dispatch.py` builds it and names the schemas.

#include <torch/library.h>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace {

// Boxed, as torch.ops calls: the arguments are not even taken apart.
void do_nothing(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const auto begin = stack->end() - static_cast<std::ptrdiff_t>(count);
  const auto first = std::find_if(begin, stack->end(), [](const c10::IValue& value) {
    return value.isTensor() || value.isTensorList();
  });
  const at::Tensor like = first->isTensor() ? first->toTensor() : first->toTensorVector().at(0);
  stack->erase(begin, stack->end());
  for (size_t result = 0; result < op.schema().returns().size(); ++result) {
    stack->emplace_back(at::empty({2, 4, 3}, like.options()));
  }
}

std::vector<std::unique_ptr<torch::Library>> libraries;

}  // namespace

// Defines `name::operator` for the schema of an operator; `schema` begins with the operator's name.
extern "C" void define_nothing(const char* name, const char* schema) {
  auto& library = libraries.emplace_back(
      std::make_unique<torch::Library>(torch::Library::FRAGMENT, name, std::nullopt, __FILE__, __LINE__));
  library->def(schema);
  const std::string text(schema);
  library->impl(text.substr(0, text.find('(')).c_str(), torch::CppFunction::makeFromBoxedFunction<&do_nothing>());
}
