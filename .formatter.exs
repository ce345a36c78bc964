[
  inputs: [
    "{mix,.formatter}.exs",
    "{bench,config,lib,test}/**/*.{ex,exs}",
    "examples/*/{mix,.formatter}.exs",
    "examples/*/{config,lib}/**/*.{ex,exs}"
  ]
]
