defmodule Fleet.MixProject do
  use Mix.Project

  def project do
    [
      app: :fleet,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      # Other projects depend on {:caravan, "~> 2.0"}.
      deps: [{:caravan, path: "../.."}]
    ]
  end

  def application do
    [mod: {Fleet.Application, []}, extra_applications: [:logger]]
  end
end
