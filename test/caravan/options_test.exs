defmodule Caravan.OptionsTest do
  use ExUnit.Case, async: true

  alias Caravan.Options

  @schema [
    name: [
      type: {:custom, __MODULE__, :check_name, [3]},
      type_doc: "short string",
      required: true,
      doc: "The name."
    ],
    tls: [type: :boolean, default: false, doc: "Whether to use TLS."],
    mode: [type: {:in, [:fast, :safe]}, default: :safe, doc: "How to work."],
    interval: [
      type: {:or, [{:in, 50..3_600_000}, nil]},
      type_doc: "milliseconds",
      default: nil,
      doc: "The time between two lookups. Without it, lookups are made once."
    ],
    retries: [type: {:in, 0..10_000}, default: 5_000, doc: "How often to try again."],
    notify: [type: :mfa, default: {Kernel, :send, []}, doc: "What to call."]
  ]

  @spec check_name(term, pos_integer) :: Options.checked()
  def check_name(name, length) do
    if is_binary(name) and byte_size(name) <= length,
      do: {:ok, String.upcase(name)},
      else: {:error, "a string of #{length} bytes at most, such as \"app\""}
  end

  defp validate(options), do: Options.validate!([{:name, "app"} | options], @schema, "Owner")

  defp error(options), do: assert_raise(ArgumentError, fn -> validate(options) end).message

  describe "validate!/3" do
    test "fills in the defaults" do
      assert validate([]) == %{
               name: "APP",
               tls: false,
               mode: :safe,
               interval: nil,
               retries: 5_000,
               notify: {Kernel, :send, []}
             }
    end

    test "takes the values of each type" do
      for {key, value} <- [
            tls: true,
            mode: :fast,
            interval: 50,
            interval: 3_600_000,
            interval: nil,
            retries: 0,
            notify: {IO, :puts, [:stderr]}
          ] do
        assert validate([{key, value}])[key] == value
      end
    end

    test "takes the first value of a key that is given twice" do
      assert validate(retries: 1, retries: 2).retries == 1
    end

    test "raises an error with the expectation and the value for a wrong value" do
      for {options, message} <- [
            {[tls: nil], "expected :tls to be true or false, got: nil"},
            {[mode: :slow], "expected :mode to be one of :fast, :safe, got: :slow"},
            {[retries: -1], "expected :retries to be an integer from 0 to 10_000, got: -1"},
            {[retries: 5.0], "expected :retries to be an integer from 0 to 10_000, got: 5.0"},
            {[interval: 5],
             "expected :interval to be an integer from 50 to 3_600_000 (milliseconds) or nil, got: 5"},
            {[notify: {IO, :puts}],
             "expected :notify to be {module, function, arguments} with a proper list of arguments, got: {IO, :puts}"},
            {[notify: {IO, :puts, 1}],
             "expected :notify to be {module, function, arguments} with a proper list of arguments, got: {IO, :puts, 1}"}
          ] do
        assert error(options) == "Owner: " <> message
      end

      assert_raise ArgumentError,
                   ~s(Owner: expected :name to be a string of 3 bytes at most, such as "app", got: "name"),
                   fn -> Options.validate!([name: "name"], @schema, "Owner") end
    end

    test "raises an error with the known options, and the most similar one, for an unknown option" do
      assert error(retry: 1) ==
               "Owner: unknown option :retry (given 1), expected one of: :name, :tls, :mode, " <>
                 ":interval, :retries, :notify. Did you mean :retries?"

      refute error(colour: 1) =~ "Did you mean"
    end

    test "raises an error with the type for a missing option" do
      assert_raise ArgumentError,
                   "Owner: required option :name (short string) is missing, got: [tls: true]",
                   fn -> Options.validate!([tls: true], @schema, "Owner") end
    end

    test "raises an error for options that are not a keyword list" do
      for options <- [nil, %{}, ["app"], [{:a, 1} | :b]] do
        assert_raise ArgumentError, ~r/^Owner: expected options as a keyword list, got: /, fn ->
          Options.validate!(options, @schema, "Owner")
        end
      end
    end
  end

  test "docs/1 returns a list with type, text and default of each option" do
    assert Options.docs(@schema) == """
           * `:name` (short string) - Required. The name.
           * `:tls` (boolean) - Whether to use TLS. Defaults to `false`.
           * `:mode` (`:fast` or `:safe`) - How to work. Defaults to `:safe`.
           * `:interval` (milliseconds, 50 to 3,600,000) - The time between two lookups. Without it, lookups are made once.
           * `:retries` (integer, 0 to 10,000) - How often to try again. Defaults to `5_000`.
           * `:notify` (`{module, function, arguments}`) - What to call. Defaults to `{Kernel, :send, []}`.\
           """
  end
end
